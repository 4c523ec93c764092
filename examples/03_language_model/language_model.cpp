// SPDX-License-Identifier: Apache-2.0
//
// A byte-level decoder language model: assembled from parts at compile time, trained on real text, writing its own.
//
// Shapes   ids [batch, context]; hidden [batch, context, dim]; logits [rows, 256]
//
// Text, chart and command line are in the headers beside this file; --help explains the program.
#include "chart.hpp"
#include "corpus.hpp"
#include "options.hpp"
#include <seqprim/io/checkpoint.hpp>
#include <seqprim/io/safetensors.hpp>
#include <seqprim/loss/linear_cross_entropy.hpp>
#include <seqprim/nn/nn.hpp>
#include <seqprim/sampling/sampling.hpp>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <new>
#include <type_traits>
#include <unistd.h>

using namespace seqprim;

// example-begin model
// The model: a type for each decision. Another mask, position, activation, norm or mixer is another name here.
using attention_part = nn::attention_mixer<mask::causal, score::identity, position::rotary<position::half_split>>;
using model_type = nn::decoder<nn::block<attention_part, nn::swiglu<>, nn::rms_norm<>>>;

model_type make_model(const demo::options& o) {
  return model_type({.vocab = 256,
                     .dim = o.dim,
                     .layers = o.layers,
                     .block = {.mixer = {.heads = o.heads, .kv_heads = o.kv_heads}},
                     .tied_head = true});
}
// example-end model

namespace {

volatile std::sig_atomic_t interrupted = 0;

extern "C" void on_interrupt(int) {
  interrupted = 1;
  std::signal(SIGINT, SIG_DFL);  // a second Ctrl-C ends at once
}

double bits_per_byte(double nats) { return nats / std::log(2.0); }

/// Everything that changes while training, and how to take one step.
// example-begin step
struct trainer {
  const demo::options& o;
  cpu executor;
  model_type model;
  nn::adamw<> optimizer;
  nn::cosine_schedule rate;
  model_type::activations saved;
  loss::linear_cross_entropy_workspace<float> workspace;
  tensor<index_t, 2> ids, labels;
  tensor<float, 3> dhidden;
  index_t step = 0;

  explicit trainer(const demo::options& options)
      : o(options),
        executor{.threads = static_cast<int>(options.threads)},
        model(make_model(options)),
        optimizer(model, {.beta2 = 0.95, .weight_decay = options.weight_decay}),
        rate{.base = options.learning_rate, .warmup = options.warmup, .total = options.steps, .min_ratio = 0.1},
        ids(options.batch, options.context),
        labels(options.batch, options.context),
        dhidden(options.batch, options.context, options.dim) {}

  /// Row `row` of the batch: `context` bytes of the text from `start` on, and for each the byte that follows.
  void set_window(index_t row, const demo::bytes& text, index_t start) {
    for (index_t i = 0; i < o.context; ++i) {
      ids(row, i) = text[static_cast<std::size_t>(start + i)];
      labels(row, i) = text[static_cast<std::size_t>(start + i + 1)];
    }
  }

  /// One optimizer step on random windows; the loss in bits per byte. Which windows depends on seed and step alone, so a
  /// resumed run sees what it would have seen.
  double train(const demo::bytes& text) {
    const random_stream random{.seed = static_cast<std::uint64_t>(o.seed), .step = static_cast<std::uint32_t>(step)};
    const auto starts = static_cast<std::uint64_t>(text.size()) - static_cast<std::uint64_t>(o.context);
    for (index_t row = 0; row < o.batch; ++row) {
      const auto word = random.word(random_domain::caller, static_cast<std::uint32_t>(row));
      set_window(row, text, static_cast<index_t>(word * starts >> 32));
    }
    nn::zero_gradients(executor, model);
    const auto hidden = model.forward(executor, ids, saved);
    const index_t rows = o.batch * o.context;
    const auto result = loss::linear_cross_entropy(
        executor, {}, tensor_view<float, 2>(hidden.data, rows, o.dim), model.head_weight().value,
        tensor_view<index_t, 1>(labels.data(), rows),
        {.dx = tensor_view<float, 2>(dhidden.data(), rows, o.dim), .dweight = model.head_weight().grad.view()},
        workspace);
    model.backward(executor, ids, dhidden, saved);
    const auto gradients = nn::measure_gradients(executor, model, o.clip);
    ++step;
    if (gradients.finite) optimizer.step(executor, model, rate(step), gradients.factor);
    return bits_per_byte(result.loss);
  }
  // example-end step

  /// Bits per byte on held-out text: up to `most` windows spread evenly over all of it, each read from its own start.
  double evaluate(const demo::bytes& text, index_t most) {
    const index_t last_start = static_cast<index_t>(text.size()) - 1 - o.context;
    const index_t windows = round_up(min(most, last_start / o.context + 1), o.batch);  // whole batches
    double sum = 0;
    for (index_t n = 0; n < windows; n += o.batch) {
      for (index_t row = 0; row < o.batch; ++row)
        set_window(row, text, windows > 1 ? (n + row) * last_start / (windows - 1) : 0);
      const auto hidden = model.forward(executor, ids, saved);
      const index_t rows = o.batch * o.context;
      sum += loss::linear_cross_entropy(executor, {}, tensor_view<float, 2>(hidden.data, rows, o.dim),
                                        model.head_weight().value, tensor_view<index_t, 1>(labels.data(), rows), {},
                                        workspace)
                 .loss;
    }
    return bits_per_byte(sum / static_cast<double>(windows / o.batch));
  }
};

/// The metadata of a checkpoint: all that a resumed run must share.
struct run_facts {
  std::vector<std::pair<std::string, std::string>> facts;

  run_facts(const demo::options& o, std::uint64_t fingerprint) {
    const auto add = [&](const char* name, auto value) {
      char text[32];
      if constexpr (std::is_floating_point_v<decltype(value)>) {
        std::snprintf(text, sizeof text, "%.17g", value);
      } else {
        std::snprintf(text, sizeof text, "%llu", static_cast<unsigned long long>(value));
      }
      facts.emplace_back(name, text);
    };
    demo::visit_facts(o, [&](const char* name, auto value, auto, auto) { add(name, value); });
    add("text", fingerprint);
  }
};

void save(const trainer& t, const demo::corpus& text, const demo::chart& chart, const std::string& path) {
  io::safetensors_writer file;
  io::add_parameters(file, t.model);
  io::add_optimizer(file, t.optimizer);
  for (const auto& [name, value] : run_facts(t.o, text.fingerprint).facts) file.metadata(name, value);
  file.metadata("step", message(t.step));
  const auto curve = [](const std::vector<demo::point>& points) {
    tensor<double, 2> numbers(static_cast<index_t>(points.size()), 2);
    for (index_t i = 0; i < numbers.extent(0); ++i) {
      numbers(i, 0) = points[static_cast<std::size_t>(i)].step;
      numbers(i, 1) = points[static_cast<std::size_t>(i)].bits;
    }
    return numbers;
  };
  const auto train = curve(chart.train), held_out = curve(chart.held_out);
  file.add("extra.curve.train", train);
  file.add("extra.curve.held_out", held_out);
  file.save(path);
  chart.save((std::filesystem::path(path).parent_path() / "loss.svg").string());
}

/// What a checkpoint was trained with becomes the options. A flag that says otherwise is refused when it is loaded.
void adopt_facts(const io::safetensors_file& file, demo::options& o) {
  demo::visit_facts(o, [&]<class Number>(const char* name, Number& value, auto least, auto most) {
    if (!file.has_metadata(name))
      throw io_error(message(file.source(), ": not a checkpoint of this program, it names no ", name));
    const auto stored = demo::parse_number(message(file.source(), ": ", name), file.metadata(name),
                                           static_cast<Number>(least), static_cast<Number>(most));
    if (!o.was_given(demo::flag_of(name))) value = stored;
  });
  demo::check_sizes(o);
}

void load(trainer& t, const demo::corpus& text, demo::chart& chart, const io::safetensors_file& file) {
  for (const auto& [name, value] : run_facts(t.o, text.fingerprint).facts) {
    if (!file.has_metadata(name))
      throw io_error(message(file.source(), ": not a checkpoint of this program, it names no ", name));
    if (file.metadata(name) == value) continue;
    if (name == "text") throw io_error(message(file.source(), ": was trained on another text; give the same --text"));
    const auto shortened = [](const std::string& number) { return message(std::strtod(number.c_str(), nullptr)); };
    throw io_error(message(file.source(), ": was trained with ", name, " ", shortened(file.metadata(name)), ", not ",
                           shortened(value), "; leave the flag out to go on with it"));
  }
  const auto curve = [&](const char* name) {
    std::vector<demo::point> points;
    const auto numbers = file.load<double, 2>(name);
    if (numbers.extent(1) != 2) throw io_error(message(file.source(), ": ", name, " must have two columns"));
    for (index_t i = 0; i < numbers.extent(0); ++i) points.push_back({numbers(i, 0), numbers(i, 1)});
    return points;
  };
  const auto step = demo::parse_number<index_t>(message(file.source(), ": step"), file.metadata("step"), 0, t.o.steps);
  auto train = curve("extra.curve.train"), held_out = curve("extra.curve.held_out");
  if (static_cast<index_t>(train.size()) != step || held_out.empty())
    throw io_error(message(file.source(), ": the curves (", train.size(), " and ", held_out.size(),
                           " points) do not fit step ", step));
  io::load_checkpoint(file, t.model, t.optimizer);
  t.step = step;
  chart.train = std::move(train);
  chart.held_out = std::move(held_out);
}

/// Prints a byte the way a terminal can take it.
void put(std::uint8_t byte) {
  if (byte >= 0x20 || byte == '\n' || byte == '\t') {
    std::putchar(byte);
  } else {
    std::printf("\\x%02x", byte);
  }
}

// example-begin generate
/// Continues the prompt byte by byte from a cache. When the context is full, its younger half is read again.
void generate(const trainer& t) {
  const auto& o = t.o;
  const auto sampler = sampling::temperature{static_cast<float>(o.temperature)} | sampling::top_k{o.top_k} |
                       sampling::top_p{static_cast<float>(o.top_p)} | sampling::draw{};
  std::vector<index_t> history;
  for (const char c : o.prompt) history.push_back(static_cast<std::uint8_t>(c));
  model_type::decode_state state(t.model, 1, o.context);
  tensor<float, 2> logits(1, 256);
  const auto read = [&](std::size_t count) {
    const auto* last = history.data() + (history.size() - count);
    t.model.prefill(t.executor, tensor_view<const index_t, 2>(last, 1, static_cast<index_t>(count)), state, logits);
  };
  const auto half = static_cast<std::size_t>(max<index_t>(1, o.context / 2));
  read(min(history.size(), half));
  for (index_t n = 0; n < o.generate && !interrupted; ++n) {
    const random_stream random{.seed = static_cast<std::uint64_t>(o.was_given("--write-seed") ? o.write_seed : o.seed),
                               .step = static_cast<std::uint32_t>(history.size())};
    const auto drawn = sampling::sample(t.executor, sampler, logits.view()[0], random);
    if (drawn.token < 0)
      demo::refuse("the model's logits are not finite; it has diverged (try a smaller --learning-rate)");
    history.push_back(drawn.token);
    put(static_cast<std::uint8_t>(drawn.token));
    if (state.length() == o.context) {
      state.clear();
      read(half);
    } else {
      read(1);
    }
  }
}
// example-end generate

int run(int argc, char** argv) {
  demo::options o = demo::parse_options(argc, argv);
  if (o.help) {
    std::fputs(demo::help_text, stdout);
    return 0;
  }
  const std::string path = (std::filesystem::path(o.out) / "model.safetensors").string();
  std::unique_ptr<io::safetensors_file> checkpoint;
  if (o.resume) {
    checkpoint = std::make_unique<io::safetensors_file>(path);
    adopt_facts(*checkpoint, o);
  }
  demo::check_sizes(o);

  demo::corpus text;
  for (const std::string& file : o.text.empty() ? demo::default_files(SEQPRIM_SOURCE_DIR) : o.text)
    text.add(demo::read_file(file));
  if (static_cast<index_t>(text.held_out.size()) <= o.context || static_cast<index_t>(text.train.size()) <= o.context)
    demo::refuse(message("the text has ", text.train.size() + text.held_out.size(), " bytes in ", text.files,
                         text.files == 1 ? " file" : " files", "; --context ", o.context, " needs at least ",
                         10 * (o.context + 1)));

  trainer t(o);
  demo::chart chart;
  if (checkpoint) {
    load(t, text, chart, *checkpoint);
    checkpoint.reset();
  } else {
    nn::initialize(t.executor, t.model, {.seed = static_cast<std::uint64_t>(o.seed)});
  }
  std::error_code failure;
  std::filesystem::create_directories(o.out, failure);
  if (failure) throw io_error("folder '" + o.out + "' cannot be made: " + failure.message());
  if (t.step < o.steps) const io::replacement_file writable(path);  // better now than after the training

  const demo::entropies counted = demo::measure(text.held_out);
  chart.unigram = counted.unigram;
  chart.bigram = counted.bigram;
  chart.title =
      message("Bits per byte while training, ", nn::parameter_count(t.model), " parameters, context ", o.context);
  std::printf("text: %d files, %.2f MB to train on, %.2f MB held out\n", text.files,
              static_cast<double>(text.train.size()) / 1e6, static_cast<double>(text.held_out.size()) / 1e6);
  std::printf("model: %lld parameters, %lld layers of width %lld, %lld heads, context %lld, %d threads, %s\n",
              static_cast<long long>(nn::parameter_count(t.model)), static_cast<long long>(o.layers),
              static_cast<long long>(o.dim), static_cast<long long>(o.heads), static_cast<long long>(o.context),
              thread_count(t.executor), arch::native_isa::name);
  std::printf("held-out text by counting: %.3f bits per byte (bytes), %.3f (pairs of bytes)\n", counted.unigram,
              counted.bigram);

  // While training a sample of the held-out text will do; before and after, all of it (at most a million bytes).
  const auto evaluate = [&](bool all) {
    const double bits = t.evaluate(text.held_out, (all ? index_t{1'000'000} : index_t{16'384}) / o.context + 1);
    chart.held_out.push_back({static_cast<double>(t.step), bits});
    return bits;
  };
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  if (t.step == 0) {
    std::printf("step %5d: held-out %.3f bits per byte (before training)\n", 0, evaluate(true));
  } else {
    std::printf("resumed at step %lld of %lld\n", static_cast<long long>(t.step), static_cast<long long>(o.steps));
  }
  if (o.stop_after > 0 && (o.stop_after <= t.step || o.stop_after > o.steps))
    demo::refuse(message("--stop-after (", o.stop_after, ") must lie after step ", t.step, " and not after --steps (",
                         o.steps, ")"));
  std::signal(SIGINT, on_interrupt);
  const auto begin = std::chrono::steady_clock::now();
  const index_t first = t.step;
  double training = 0;
  auto last_line = begin - std::chrono::hours(1);
  const auto saved = [&] { save(t, text, chart, path); };
  bool stopped = false;
  while (t.step < o.steps && !stopped) {
    const auto step_begin = std::chrono::steady_clock::now();
    const double bits = t.train(text.train);
    const auto now = std::chrono::steady_clock::now();
    training += std::chrono::duration<double>(now - step_begin).count();
    chart.train.push_back({static_cast<double>(t.step), bits});
    const double speed = static_cast<double>((t.step - first) * o.batch * o.context) / training;
    if (now - last_line > (terminal ? std::chrono::milliseconds(200) : std::chrono::seconds(10))) {
      last_line = now;
      std::printf("%sstep %5lld/%lld  loss %.3f bits per byte  %.0f tokens/s  ETA %.0f s   %s", terminal ? "\r" : "",
                  static_cast<long long>(t.step), static_cast<long long>(o.steps), bits, speed,
                  static_cast<double>((o.steps - t.step) * o.batch * o.context) / speed, terminal ? "" : "\n");
      std::fflush(stdout);
    }
    stopped = interrupted || t.step == o.stop_after;
    if (t.step % o.evaluate_every == 0 || t.step == o.steps) {
      std::printf("%sstep %5lld: held-out %.3f bits per byte, %.0f tokens/s%*s\n", terminal ? "\r" : "",
                  static_cast<long long>(t.step), evaluate(t.step == o.steps), speed, terminal ? 24 : 0, "");
      saved();
    } else if (stopped) {
      saved();
    }
  }
  if (stopped && t.step < o.steps) {
    std::printf("%sstopped after step %lld and saved; --resume goes on\n", terminal ? "\n" : "",
                static_cast<long long>(t.step));
    return 0;
  }
  if (!chart.held_out.empty()) {
    const double bits = chart.held_out.back().bits;
    std::printf("held-out %.3f bits per byte after %lld steps; counting bytes %.3f, counting pairs %.3f: %s\n", bits,
                static_cast<long long>(t.step), counted.unigram, counted.bigram,
                bits < counted.bigram ? "the model has learnt more than pairs" : "train longer to beat counting pairs");
    std::printf("saved %s and loss.svg beside it\n", path.c_str());
  }
  if (o.generate > 0) {
    std::printf("--- it writes (temperature %g, top-p %g, seed %lld) ---\n%s", o.temperature, o.top_p,
                static_cast<long long>(o.was_given("--write-seed") ? o.write_seed : o.seed), o.prompt.c_str());
    generate(t);
    std::printf("\n---\n");
  }
  return o.check && !(chart.held_out.back().bits < counted.unigram) ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int status = run(argc, argv);
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
    std::fprintf(stderr, "language_model: standard output cannot be written\n");
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "language_model: not enough memory for these sizes\n");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "language_model: %s\n", e.what());
  }
  return 2;
}
