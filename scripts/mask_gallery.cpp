// SPDX-License-Identifier: Apache-2.0
//
// Draws docs/pictures/mask_gallery.svg: what the masks see, pair by pair, and how they classify tiles. The picture is made
// from the masks themselves; scripts/mask_gallery.sh builds and runs this.
#include <seqprim/mask/mask.hpp>

#include <array>
#include <cstdint>
#include <cstdio>
#include <string>

using namespace seqprim;

namespace {

constexpr index_t len = 24;  // tokens of a panel
constexpr index_t tile = 4;  // edge of a tile [tokens]
constexpr int pitch = 9;     // one pair [px]
constexpr int side = static_cast<int>(len) * pitch;
constexpr int columns = 4;
constexpr int margin = 36, gap_x = 36, gap_y = 84, top = 152;

struct colors {
  const char* ground;
  const char* mark;
};
constexpr colors palette[] = {{"#eeeeea", ""}, {"#fbe3b6", "#b96a00"}, {"#cbe0f3", "#1f5f99"}};

class drawing {
 public:
  template <mask::rule M>
  void add(const char* title, const char* note, const M& m, index_t q_len = len, index_t k_len = len) {
    const int x0 = margin + panels_ % columns * (side + gap_x);
    const int y0 = top + panels_ / columns * (side + gap_y);
    ++panels_;
    // A problem with a cache has fewer queries than keys: its rows stand at the bottom, where the last keys are.
    const index_t shift = len - q_len;
    text(x0, y0 - 24, "title", title);
    text(x0, y0 - 8, "note", note);
    if (shift > 0)
      body_ += message("<rect x='", x0 + 1, "' y='", y0 + 1, "' width='", side - 2, "' height='", pixel(shift) - 3,
                       "' rx='2' fill='none' stroke='#d4d4ce' stroke-dasharray='3 3'/>\n");
    std::string marks[3];
    for (index_t q = 0; q < q_len; q += tile)
      for (index_t k = 0; k < k_len; k += tile) {
        const range rows{q, min(q + tile, q_len)}, keys{k, min(k + tile, k_len)};
        const auto kind = static_cast<std::size_t>(m.classify(rows, keys));
        body_ += message("<rect x='", x0 + pixel(k) + 1, "' y='", y0 + pixel(q + shift) + 1, "' width='",
                         pixel(keys.size()) - 2, "' height='", pixel(rows.size()) - 2, "' rx='2' fill='",
                         palette[kind].ground, "'/>\n");
        for (index_t i = rows.begin; i < rows.end; ++i)
          for (index_t j = keys.begin; j < keys.end; ++j)
            if (m(i, j)) marks[kind] += message('M', x0 + pixel(j) + 2, ' ', y0 + pixel(i + shift) + 2, "h5v5h-5z");
      }
    for (std::size_t kind = 1; kind < 3; ++kind)
      if (!marks[kind].empty()) body_ += message("<path fill='", palette[kind].mark, "' d='", marks[kind], "'/>\n");
    const mask::tile_counts counts = mask::count_tiles(m, q_len, k_len, tile, tile);
    text(x0, y0 + side + 17, "count",
         message(counts.visited(), " of ", counts.total(), " tiles visited, ", counts.partial, " pair by pair"));
  }

  void write(std::FILE* file) const {
    const int width = 2 * margin + columns * side + (columns - 1) * gap_x;
    const int rows = (panels_ + columns - 1) / columns;
    const int height = top + rows * side + (rows - 1) * gap_y + 52;
    std::fprintf(file,
                 "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d'>\n"
                 "<style>text{font-family:'DejaVu Sans',Verdana,sans-serif;fill:#22262b}"
                 ".head{font-size:22px;font-weight:bold}.lead{font-size:13px;fill:#4b5560}"
                 ".title{font-size:12.5px;font-weight:bold;font-family:'DejaVu Sans Mono',Menlo,Consolas,monospace}"
                 ".note,.count{font-size:11px;fill:#4b5560}</style>\n"
                 "<rect width='%d' height='%d' fill='#ffffff'/>\n",
                 width, height, width, height, width, height);
    std::fprintf(file, "<text class='head' x='%d' y='40'>Which keys a query attends to</text>\n", margin);
    std::fprintf(
        file,
        "<text class='lead' x='%d' y='62'>Rows are queries, columns are keys; a mark is a visible pair. Kernels "
        "classify whole tiles:</text>\n",
        margin);
    const char* words[] = {"empty: skipped, no load and no math", "partial: tested pair by pair",
                           "full: computed without a test"};
    const int at[] = {margin + 524, margin + 316, margin + 86};
    for (int kind = 2; kind >= 0; --kind) {
      const int x = at[kind] - 86;
      std::fprintf(file, "<rect x='%d' y='74' width='15' height='15' rx='2' fill='%s'/>\n", x, palette[kind].ground);
      if (kind > 0) std::fprintf(file, "<path fill='%s' d='M%d 79h5v5h-5z'/>\n", palette[kind].mark, x + 5);
      std::fprintf(file, "<text class='lead' x='%d' y='86'>%s</text>\n", x + 22, words[kind]);
    }
    std::fputs(body_.c_str(), file);
    std::fputs("</svg>\n", file);
  }

 private:
  static int pixel(index_t tokens) { return static_cast<int>(tokens) * pitch; }

  void text(int x, int y, const char* style, const std::string& words) {
    std::string escaped;
    for (const char c : words) escaped += c == '&' ? "&amp;" : c == '<' ? "&lt;" : std::string(1, c);
    body_ += message("<text class='", style, "' x='", x, "' y='", y, "'>", escaped, "</text>\n");
  }

  std::string body_;
  int panels_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: mask_gallery FILE.svg\n", stderr);
    return 2;
  }
  const std::array<std::int32_t, 4> offsets = {0, 7, 14, 24};
  const std::array<std::int32_t, 3> prefix_ends = {4, 7, 20};
  const std::array<std::int32_t, 1> lengths = {17};
  const auto documents = mask::documents(offsets);
  const mask::key_padding padding{.lengths = lengths, .k_len = len, .side = mask::padding_side::left};
  const mask::where blocks{[](index_t q, index_t k) { return k <= q && (q / 8 - k / 8) % 2 == 0; }};
  const mask::block_grid grid(cpu{.threads = 1}, blocks, len, len, tile, tile);

  tensor<std::int32_t, 2> order(1, len);  // a permutation: groups of neighbors, in another order
  for (index_t i = 0; i < len; ++i) order(0, i) = static_cast<std::int32_t>((i / 4 * 5 % 6) * 4 + i % 4);

  drawing picture;
  picture.add("causal", "keys up to its own position", mask::causal{});
  picture.add("causal, queries from 12 on", "12 new tokens behind a cache of 12", mask::shifted(mask::causal{}, 12),
              12);
  picture.add("causal_window(7)", "the newest 7 keys", mask::causal_window(7));
  picture.add("sliding_window{5, 3}", "5 keys back, 3 ahead", mask::sliding_window{.left = 5, .right = 3});
  picture.add("attention_sinks{3, 6}", "the first 3 keys stay", mask::attention_sinks{.sinks = 3, .window = 6});
  picture.add("prefix{10}", "10 keys visible to every query", mask::prefix{.length = 10});
  picture.add("key_padding & causal", "left padding, bound to a batch row", mask::bind(padding & mask::causal{}, 0, 0));
  picture.add("causal & ~key_range{8, 13}", "5 keys removed", mask::causal{} & ~mask::key_range{8, 13});
  picture.add("documents", "three sequences packed in one row", documents);
  picture.add("documents & causal", "causal inside each", documents & mask::causal{});
  picture.add("packed_prefix", "a prefix for each document",
              mask::bind(mask::packed_prefix(offsets, prefix_ends), 0, 0));
  picture.add("block_map of a predicate", "tiles classified once, by brute force", grid.over(blocks));

  const mask::blocks_of frame{6};
  const mask::residue_of phase{3};
  const mask::labels ranks(order);
  picture.add("by_label: frames", "causal over blocks of 6 tokens", mask::by_label{mask::causal{}, frame, frame});
  picture.add("by_label: chunks", "own chunk and one before it",
              mask::by_label{mask::sliding_window{.left = 1}, frame, frame});
  picture.add("by_label: dilated", "every third key of the newest 15",
              mask::causal_window(15) & mask::by_label{mask::sliding_window{.left = 0}, phase, phase});
  picture.add("by_label: permutation", "keys that come before in another order",
              mask::bind(mask::by_label{mask::causal{}, ranks.rows(), ranks.rows()}, 0, 0));

  std::FILE* const file = std::fopen(argv[1], "w");
  if (file == nullptr) {
    std::fprintf(stderr, "mask_gallery: cannot write %s\n", argv[1]);
    return 2;
  }
  picture.write(file);
  const bool failed = std::ferror(file) != 0;
  return std::fclose(file) != 0 || failed ? 2 : 0;
}
