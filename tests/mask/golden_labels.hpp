// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/mask/by_label.hpp>
#include <seqprim/mask/causal.hpp>
#include <seqprim/mask/labels.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <support/golden.hpp>
#include <vector>

/// Labels of the masks of images, frames, scales and cells, from the parameters of their golden files: a query attends to the keys
/// whose label is not above its own.
namespace seqprim::test {

struct golden_labels {
  golden_labels(const std::vector<std::int32_t>& q, const std::vector<std::int32_t>& k) : queries(q), keys(k) {}
  explicit golden_labels(const std::vector<std::int32_t>& both) : golden_labels(both, both) {}

  mask::labels queries, keys;

  [[nodiscard]] auto mask() const { return mask::by_label{mask::causal{}, queries.row(), keys.row()}; }
};

inline index_t param(const golden& g, const char* name) { return g.params.at(name).get<index_t>(); }

/// label(i) for i in [0, count).
template <class Label> std::vector<std::int32_t> labels_from(index_t count, const Label& label) {
  std::vector<std::int32_t> result;
  for (index_t i = 0; i < count; ++i) result.push_back(static_cast<std::int32_t>(label(i)));
  return result;
}
inline std::vector<std::int32_t> labels_from(const tensor<std::int64_t, 1>& values) {
  return labels_from(values.size(), [&](index_t i) { return values(i); });
}

/// Concentric attention: a text token has its index, a token of an image the index of the image's first token plus its ring.
inline golden_labels concentric(const golden& g) {
  if (g.params.contains("layout")) {  // text and images in any order
    const auto ring = g.load<std::int64_t, 1>("ring"), image = g.load<std::int64_t, 1>("image_id");
    std::map<std::int64_t, index_t> first;
    return golden_labels(labels_from(ring.size(), [&](index_t i) {
      return image(i) < 0 ? i : first.try_emplace(image(i), i).first->second + ring(i);
    }));
  }
  const auto ring = g.load<std::int64_t, 2>("ring");
  const index_t start = param(g, "img_start"), size = param(g, "H") * param(g, "W");
  return golden_labels(labels_from(start + size + param(g, "text_after"), [&](index_t i) {
    return i < start || i >= start + size ? i : start + ring.data()[i - start];
  }));
}

/// Bidirectional frames in a causal sequence: a token of a frame has the index of the frame's first token.
inline golden_labels frames(const golden& g) {
  const auto frame = g.load<std::int64_t, 1>("frame_id");
  std::map<std::int64_t, index_t> first;
  return golden_labels(labels_from(
      frame.size(), [&](index_t i) { return frame(i) < 0 ? i : first.try_emplace(frame(i), i).first->second; }));
}

/// Video of frames of one size.
inline golden_labels frame_grid(const golden& g) {
  const index_t frame = param(g, "height") * param(g, "width");
  return golden_labels(labels_from(param(g, "frames") * frame, [&](index_t i) { return i / frame; }));
}
/// Context frames and a noisy copy of the last ones: the frame is the first coordinate.
inline golden_labels frame_coordinate(const golden& g) {
  const auto at = g.load<std::int64_t, 2>("position_ids");
  return golden_labels(labels_from(at.extent(0), [&](index_t i) { return at(i, 0); }));
}
inline golden_labels frames_of_tokens(const golden& g) {
  const index_t frame = param(g, "tokens_per_frame");
  return golden_labels(labels_from(param(g, "frames") * frame, [&](index_t i) { return i / frame; }));
}
inline golden_labels levels(const golden& g) { return golden_labels(labels_from(g.load<std::int64_t, 1>("level"))); }
inline golden_labels entities(const golden& g) { return golden_labels(labels_from(g.load<std::int64_t, 1>("entity"))); }

/// Learned queries that read frames: query i of n has read as far as frame floor(i frames / n), or ceil((i + 1) frames / n) - 1.
inline golden_labels queries_of_frames(const golden& g) {
  const index_t n = param(g, "num_queries"), count = param(g, "frames"), frame = param(g, "tokens_per_frame");
  const bool floor = g.params.at("rule").get<std::string>() == "floor";
  return {labels_from(n, [&](index_t i) { return floor ? i * count / n : ceil_div((i + 1) * count, n) - 1; }),
          labels_from(count * frame, [&](index_t i) { return i / frame; })};
}

/// Causal queries before text that they may or may not attend to.
inline golden_labels causal_queries(const golden& g) {
  const index_t queries = param(g, "queries"), text = param(g, "text");
  const std::string mode = g.params.at("mode").get<std::string>();
  const auto own = [](index_t i) { return i; };
  if (mode == "joint")
    return {labels_from(queries + text, [&](index_t i) { return min_of(i, queries); }),
            labels_from(queries + text, [&](index_t i) { return i < queries ? i : 0; })};
  if (mode == "unilm_causal")
    return {labels_from(text, [&](index_t i) { return queries + i; }), labels_from(queries + text, own)};
  return golden_labels(labels_from(queries, own));
}

/// Patches that attend to all patches, then causal queries.
inline golden_labels patches_and_queries(const golden& g) {
  const index_t patches = param(g, "patches");
  return golden_labels(labels_from(patches + param(g, "queries"), [&](index_t i) { return max_of(i, patches - 1); }));
}

}  // namespace seqprim::test
