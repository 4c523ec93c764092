// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/core/error.hpp>
#include <seqprim/core/index.hpp>

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

/// The command line.
namespace demo {

using seqprim::index_t;

struct options {
  std::vector<std::string> text;
  std::string out = "out";
  bool resume = false;

  index_t dim = 192, layers = 4, heads = 6, kv_heads = 0, context = 256;
  index_t batch = 16, steps = 500, warmup = 25, evaluate_every = 50, stop_after = 0;
  double learning_rate = 3e-3, weight_decay = 0.1, clip = 1.0;
  index_t seed = 1, write_seed = 1, threads = 0;

  std::string prompt = "The ";
  index_t generate = 400, top_k = 0;
  double temperature = 0.8, top_p = 0.95;
  bool check = false, help = false;

  std::vector<std::string> given;  ///< names of the flags on the command line
  [[nodiscard]] bool was_given(const std::string& name) const {
    for (const auto& g : given)
      if (g == name) return true;
    return false;
  }
};

inline constexpr const char* help_text = R"(Trains a byte-level decoder language model on text, then lets it write.

  language_model [flags]

Text
  --text FILE...        files to train on (default: the sources and pages of this repository, and the license texts in
                        /usr/share/common-licenses); the last tenth of each file is held out for testing

Model
  --dim N               width of the model (192), a multiple of 2 * heads
  --layers N            blocks (4)
  --heads N             query heads (6)
  --kv-heads N          key/value heads, dividing the heads (as many as heads)
  --context N           bytes the model sees at once (256)

Training
  --steps N             optimizer steps in all (500)
  --batch N             windows of `context` bytes in a step (16)
  --learning-rate X     peak of the warm-up + cosine schedule (0.003)
  --warmup N            steps of linear warm-up (25)
  --weight-decay X      of AdamW, on matrices (0.1)
  --clip X              largest global norm of the gradient (1.0)
  --evaluate-every N    steps between tests on held-out text and saves (50)
  --stop-after N        save and stop after step N as if Ctrl-C were pressed; the schedule still ends at --steps
  --threads N           threads (all cores); never changes a result
  --seed N              of the initial weights, the batches and the writing (1)

Files
  --out DIR             folder of model.safetensors and loss.svg (out); made if missing
  --resume              go on from DIR/model.safetensors, with the sizes it has: gives the same numbers, bit for bit, as a
                        run without the pause. When all steps are done, only writes.

Writing
  --prompt TEXT         what the model continues ("The ")
  --generate N          bytes to write (400); 0 for none
  --temperature X       0.8; 0 always takes the likeliest byte
  --top-p X             sample among the likeliest bytes that hold this much probability (0.95)
  --top-k N             sample among the N likeliest bytes (0: all)
  --write-seed N        of the writing alone (as --seed)

  --check               end with status 1 unless the held-out text is predicted better than by counting bytes (for tests)
  --help                this page

Ctrl-C saves and ends; --resume goes on. Status 0: done or interrupted and saved; 2: something was wrong, said in one line,
and no file was touched.
)";

[[noreturn]] inline void refuse(const std::string& text) { throw seqprim::precondition_error(text); }

template <class Number> Number parse_number(const std::string& flag, const std::string& text, Number low, Number high) {
  Number value{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure == std::errc::result_out_of_range) refuse(flag + " " + text + " is outside of what a number can hold");
  if (failure != std::errc{} || end != text.data() + text.size()) refuse(flag + " needs a number, not '" + text + "'");
  if (!(value >= low && value <= high)) refuse(seqprim::message(flag, " ", value, " is outside ", low, " .. ", high));
  return value;
}

/// What a checkpoint shares with the run that goes on from it: visit(name, value, least, most), for the command line and for
/// the file alike.
template <class Options, class Visit> void visit_facts(Options& o, Visit&& visit) {
  visit("dim", o.dim, 2, 8192);
  visit("layers", o.layers, 1, 128);
  visit("heads", o.heads, 1, 256);
  visit("kv_heads", o.kv_heads, 0, 256);  // 0: as many as heads
  visit("context", o.context, 2, 65536);
  visit("batch", o.batch, 1, 4096);
  visit("steps", o.steps, 1, 100'000'000);
  visit("warmup", o.warmup, 0, 100'000'000);
  visit("learning_rate", o.learning_rate, 0, 10);
  visit("weight_decay", o.weight_decay, 0, 10);
  visit("clip", o.clip, 1e-9, 1e9);
  visit("seed", o.seed, 0, 0x7fffffffffffffff);
}

/// The flag of a fact: "kv_heads" is set by --kv-heads.
inline std::string flag_of(std::string name) {
  for (char& c : name)
    if (c == '_') c = '-';
  return "--" + name;
}

inline options parse_options(int argc, char** argv) {
  options o;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    o.given.push_back(flag);
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) refuse(flag + " needs a value");
      return argv[++i];
    };
    const auto count = [&](index_t low, index_t high) { return parse_number<index_t>(flag, value(), low, high); };
    const auto real = [&](double low, double high) { return parse_number<double>(flag, value(), low, high); };
    bool is_fact = false;
    visit_facts(o, [&]<class Number>(const char* name, Number& fact, auto least, auto most) {
      if (flag != flag_of(name)) return;
      fact = parse_number(flag, value(), static_cast<Number>(least), static_cast<Number>(most));
      is_fact = true;
    });
    if (is_fact) continue;
    if (flag == "--text") {
      while (i + 1 < argc && std::strncmp(argv[i + 1], "--", 2) != 0) o.text.emplace_back(argv[++i]);
      if (o.text.empty()) refuse("--text needs at least one file");
    } else if (flag == "--out") {
      o.out = value();
      if (o.out.empty()) refuse("--out needs the name of a folder");
    } else if (flag == "--resume") {
      o.resume = true;
    } else if (flag == "--evaluate-every") {
      o.evaluate_every = count(1, 100'000'000);
    } else if (flag == "--stop-after") {
      o.stop_after = count(1, 100'000'000);
    } else if (flag == "--threads") {
      o.threads = count(0, 1024);
    } else if (flag == "--write-seed") {
      o.write_seed = count(0, 0x7fffffffffffffff);
    } else if (flag == "--prompt") {
      o.prompt = value();
      if (o.prompt.empty()) refuse("--prompt must hold at least one byte");
    } else if (flag == "--generate") {
      o.generate = count(0, 10'000'000);
    } else if (flag == "--temperature") {
      o.temperature = real(0, 100);
    } else if (flag == "--top-p") {
      o.top_p = real(0, 1);
    } else if (flag == "--top-k") {
      o.top_k = count(0, 256);
    } else if (flag == "--check") {
      o.check = true;
    } else if (flag == "--help" || flag == "-h") {
      o.help = true;
    } else {
      refuse("unknown flag '" + flag + "'; --help lists all");
    }
  }
  return o;
}

inline void check_sizes(const options& o) {
  if (o.dim % (2 * o.heads) != 0)
    refuse(seqprim::message("--dim (", o.dim, ") must be a multiple of 2 * --heads (", 2 * o.heads,
                            "), so that rotary positions have pairs of channels"));
  if (o.kv_heads > 0 && o.heads % o.kv_heads != 0)
    refuse(seqprim::message("--heads (", o.heads, ") must be a multiple of --kv-heads (", o.kv_heads, ")"));
  if (o.warmup >= o.steps)
    refuse(seqprim::message("--warmup (", o.warmup, ") must be less than --steps (", o.steps, ")"));
  // Activations of one step: some 30 values per channel, byte and layer.
  const double memory =
      4.0 * static_cast<double>(o.batch * o.context) * (30.0 * static_cast<double>(o.dim * o.layers) + 3.0 * 256) +
      16.0 * 12.0 * static_cast<double>(o.dim) * static_cast<double>(o.dim) * static_cast<double>(o.layers);
  if (memory > 64e9)
    refuse(seqprim::message("these sizes need about ", static_cast<index_t>(memory / 1e9),
                            " GB of memory; make --dim, --layers, --batch or --context smaller"));
}

}  // namespace demo
