// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <seqprim/io/replacement_file.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

/// The loss curve as an SVG picture.
namespace demo {

struct point {
  double step, bits;
};

struct chart {
  std::vector<point> train, held_out;  ///< bits per byte
  double unigram = 0, bigram = 0;
  std::string title;

  [[nodiscard]] std::string svg() const {
    constexpr double width = 860, height = 460, left = 64, right = 150, top = 48, bottom = 52;
    double last = 1, high = unigram, low = bigram;
    for (const auto* curve : {&train, &held_out})
      for (const point& p : *curve) {
        last = std::max(last, p.step);
        high = std::max(high, p.bits);
        low = std::min(low, p.bits);
      }
    low = std::max(0.0, std::floor(low * 2 - 0.2) / 2);
    high = std::ceil(high * 2) / 2;
    const auto x = [&](double step) { return left + step / last * (width - left - right); };
    const auto y = [&](double bits) { return top + (high - bits) / (high - low) * (height - top - bottom); };

    std::string out;
    const auto emit = [&](const char* format, auto... values) {
      char line[512];
      if constexpr (sizeof...(values) == 0) {
        std::snprintf(line, sizeof line, "%s", format);
      } else {
        std::snprintf(line, sizeof line, format, values...);
      }
      out += line;
    };
    emit(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" font-family=\"sans-serif\" "
        "font-size=\"13\">\n",
        width, height);
    emit("<rect width=\"%g\" height=\"%g\" fill=\"#ffffff\"/>\n", width, height);
    emit("<text x=\"%g\" y=\"26\" font-size=\"16\" fill=\"#1a1a1a\">%s</text>\n", left, title.c_str());
    const double unit = high - low > 4 ? 1 : 0.5;
    for (double bits = std::ceil(low / unit) * unit; bits <= high + 1e-9; bits += unit) {
      emit("<line x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#e4e4e4\"/>\n", left, width - right, y(bits),
           y(bits));
      emit("<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\" fill=\"#555555\">%g</text>\n", left - 8, y(bits) + 4, bits);
    }
    const double step_unit = tick(last);
    for (double step = 0; step <= last + 1e-9; step += step_unit)
      emit("<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\" fill=\"#555555\">%g</text>\n", x(step),
           height - bottom + 20, step);
    emit("<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\" fill=\"#1a1a1a\">step</text>\n", x(last / 2), height - 12);
    emit(
        "<text transform=\"translate(18 %.1f) rotate(-90)\" text-anchor=\"middle\" fill=\"#1a1a1a\">bits per "
        "byte</text>\n",
        y((high + low) / 2));
    const auto level = [&](double bits, const char* name) {
      emit("<line x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#888888\" stroke-dasharray=\"5 4\"/>\n", left,
           width - right, y(bits), y(bits));
      emit("<text x=\"%g\" y=\"%.1f\" fill=\"#555555\">%s %.2f</text>\n", width - right + 10, y(bits) + 4, name, bits);
    };
    level(unigram, "unigram");
    level(bigram, "bigram");
    const auto curve = [&](const std::vector<point>& points, const char* color, double thickness) {
      if (points.empty()) return;
      emit("<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%g\" stroke-linejoin=\"round\" points=\"", color,
           thickness);
      for (const point& p : points) emit("%.1f,%.1f ", x(p.step), y(p.bits));
      emit("\"/>\n");
    };
    curve(train, "#9ec5e8", 1.2);
    curve(smoothed(train), "#1f6fb5", 2.2);
    curve(held_out, "#d1495b", 2.2);
    for (const point& p : held_out)
      emit("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.4\" fill=\"#d1495b\"/>\n", x(p.step), y(p.bits));
    if (!held_out.empty())
      emit("<text x=\"%g\" y=\"%.1f\" fill=\"#d1495b\" font-weight=\"bold\">held out %.2f</text>\n", width - right + 10,
           y(held_out.back().bits) + 4 - (train.empty() ? 0 : 9), held_out.back().bits);
    if (!train.empty())
      emit("<text x=\"%g\" y=\"%.1f\" fill=\"#1f6fb5\">training %.2f</text>\n", width - right + 10,
           y((held_out.empty() ? smoothed(train) : held_out).back().bits) + 13, smoothed(train).back().bits);
    return out + "</svg>\n";
  }

  void save(const std::string& path) const {
    const std::string text = svg();
    seqprim::io::replacement_file file(path);
    file.write(std::as_bytes(std::span(text)));
    file.commit();
  }

 private:
  static double tick(double last) {
    double unit = std::pow(10.0, std::floor(std::log10(std::max(last, 1.0))));
    if (last / unit < 2) unit /= 5;
    if (last / unit < 5) unit /= 2;
    return std::max(unit, 1.0);
  }

  /// Mean over a window that grows with the number of points.
  static std::vector<point> smoothed(const std::vector<point>& points) {
    const auto reach = static_cast<std::ptrdiff_t>(points.size() / 60 + 1);
    const auto count = static_cast<std::ptrdiff_t>(points.size());
    std::vector<point> result;
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      double sum = 0, n = 0;
      for (std::ptrdiff_t j = std::max<std::ptrdiff_t>(0, i - reach); j <= std::min(count - 1, i + reach); ++j, ++n)
        sum += points[static_cast<std::size_t>(j)].bits;
      result.push_back({points[static_cast<std::size_t>(i)].step, sum / n});
    }
    return result;
  }
};

}  // namespace demo
