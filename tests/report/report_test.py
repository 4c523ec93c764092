#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of benchmarks/report: what is read from Google Benchmark, how targets are judged, what stays in the documents."""
import copy
import json
import os
import pathlib
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "benchmarks/report"))
import compare  # noqa: E402
import peers  # noqa: E402
import summary  # noqa: E402
import table  # noqa: E402


def row(benchmark, sizes, **counters):
    return {"benchmark": benchmark, "sizes": {key: str(value) for key, value in sizes.items()}, "microseconds": 1.0} | counters


def peer(benchmark, api, dtype, **more):
    return {"benchmark": f"{benchmark}<{dtype}>", "sizes": {"seq": "4096", "dim": "128"}, "threads": 1,
            "case": {"api": api, "op": "forward", "type": dtype, "mask": "full", "score": "none", "seq": 4096,
                     "dim": 128}} | more


FIXTURE = {
    "machine": "a processor", "compiler": "g++ 12", "commit": "1234567", "date": "2026-01-01", "rounds": 3,
    "context": {"isa": "avx512_bf16", "fma_roof_GFLOP/s": 290.0, "bfloat16_roof_GFLOP/s": 580.0,
                "bfloat16_roof_of": "products of bfloat16 pairs", "read_roof_GB/s": 48.0},
    "results": [
        row("forward_full<bfloat16>", {"seq": 4096, "dim": 64}, share_of_roof=0.4, **{"GFLOP/s": 232.0}),
        row("forward_full<bfloat16>", {"seq": 4096, "dim": 128}, share_of_roof=0.5, **{"GFLOP/s": 290.0}),
        row("forward_full<bfloat16>", {"seq": 1024, "dim": 128}, share_of_roof=0.1, **{"GFLOP/s": 58.0}),
        row("forward_full<float>", {"seq": 4096, "dim": 128}, share_of_roof=0.699, **{"GFLOP/s": 203.0}),
        row("forward_causal_against_full<float>", {"seq": 8192, "dim": 128}, x_of_full=0.52),
        row("forward_causal_against_full<bfloat16>", {"seq": 8192, "dim": 128}, x_of_full=0.56),
        row("same_tiles_causal<float>", {"seq": 4096, "dim": 128}, x_of_causal=1.3, tiles=1408.0, partial_tiles=85.0),
        row("same_tiles_prefix_0<float>", {"seq": 4096, "dim": 128}, x_of_causal=1.054, tiles=1408.0, partial_tiles=85.0),
        row("decode_int8<int8>", {"seq": 32768, "dim": 128}, x_of_bfloat16=0.5),
        row("short_full<float>", {"seq": 16, "dim": 64, "heads": 1}, x_of_unfused=0.9),
        row("short_causal<float>", {"seq": 16, "dim": 64, "heads": 1}, x_of_unfused=1.2),
        row("short_causal<float>", {"seq": 32, "dim": 64, "heads": 1}, x_of_unfused=1.1),
        {"benchmark": "two_threads_full<float>", "sizes": {"seq": "4096", "dim": "128", "heads": "1"},
         "error": "needs two processors and OpenMP"},
    ],
    "peers": {"torch": "2.0", "capability": "AVX512", "results": [
        peer("forward_full", "sdpa", "bfloat16", microseconds=100.0, peer_microseconds=400.0, ratio=4.0),
        peer("forward_causal", "sdpa", "bfloat16", microseconds=100.0, peer_microseconds=100.0, ratio=1.0),
        peer("same_tiles_causal", "flex", "float", error="PyTorch died"),
    ]},
}


class Targets(unittest.TestCase):
    def setUp(self):
        self.rows = {row["key"]: row for row in summary.targets(FIXTURE)}

    def test_every_target_is_in_the_table_whatever_was_measured(self):
        self.assertEqual(list(self.rows), [target[0] for target in summary.TARGETS])
        for rows in ({"results": []}, FIXTURE):
            text = summary.targets_markdown(rows)
            for key, *_ in summary.TARGETS:
                self.assertIn(f"| {key} |", text)

    def test_a_share_is_judged_at_its_own_shape(self):
        self.assertEqual(self.rows["forward bf16 64"]["verdict"], "reached")
        self.assertEqual(self.rows["forward bf16 128"]["verdict"], "missed")
        self.assertEqual(self.rows["forward bf16 128"]["reached"], "50%")
        self.assertIn("products of bfloat16 pairs", self.rows["forward bf16 128"]["what"])

    def test_a_number_is_judged_as_it_is_shown(self):
        self.assertEqual(self.rows["forward float"]["verdict"], "reached")  # 0.699 is shown as 70 %
        self.assertEqual(self.rows["masks"]["verdict"], "reached")  # 1.054 is shown as 1.05
        just_missed = copy.deepcopy(FIXTURE)
        just_missed["results"][7]["x_of_causal"] = 1.056
        self.assertEqual({r["key"]: r for r in summary.targets(just_missed)}["masks"]["verdict"], "missed")

    def test_the_worst_case_counts_and_every_missed_case_is_named(self):
        self.assertEqual(self.rows["causal"]["verdict"], "missed")
        self.assertTrue(self.rows["causal"]["reached"].startswith("0.56 x"))
        self.assertEqual(self.rows["causal"]["worst"], "forward_causal_against_full<bfloat16> seq 8192, dim 128")
        self.assertEqual(len(self.rows["short"]["missed"]), 2)
        misses = summary.misses_markdown(FIXTURE)
        self.assertIn("short_causal float seq 16, dim 64, heads 1 1.20 x", misses)
        self.assertIn("short_causal float seq 32, dim 64, heads 1 1.10 x", misses)

    def test_the_duel_of_causal_with_itself_is_noise_not_a_composition(self):
        self.assertTrue(self.rows["masks"]["reached"].startswith("1.05 x"))

    def test_a_time_ratio_becomes_a_speed(self):
        self.assertEqual(self.rows["decode int8"]["reached"], "2.00 x")

    def test_what_failed_is_not_measured_and_stays(self):
        self.assertEqual(self.rows["two threads"]["verdict"], "not measured")
        self.assertEqual(self.rows["flex"]["verdict"], "not measured")
        self.assertEqual(self.rows["sdpa bf16"]["verdict"], "missed")
        self.assertIn("PyTorch died", summary.peers_markdown(FIXTURE))
        self.assertIn("needs two processors", table.markdown(FIXTURE["results"]))

    def test_geometric_mean_of_ratios(self):
        self.assertIn("| SDPA | geometric mean of 2 | | bfloat16 | | | | 2.00 x |", summary.peers_markdown(FIXTURE))


class Page(unittest.TestCase):
    PAGE = ("# T\nby hand\n<!-- report: setup -->\nold\n<!-- report end -->\nbetween\n<!-- report: targets -->\n"
            "| short | x | y | z | missed | tiles are coarse |\n"
            "| forward float | x | y | z | missed | was slow |\n"
            "<!-- report end -->\nafter <!-- report: peers -->\n<!-- report end -->\n")

    def test_blocks_are_fresh_the_rest_is_kept(self):
        page = summary.update_page(self.PAGE, FIXTURE)
        self.assertTrue(page.startswith("# T\nby hand\n<!-- report: setup -->\na processor, g++ 12, 2026-01-01"))
        self.assertIn("\n<!-- report end -->\nbetween\n", page)
        self.assertIn("| SDPA | forward_full |", page)
        self.assertNotIn("\nold\n", page)
        self.assertEqual(summary.update_page(page, FIXTURE), page)

    def test_reasons_by_hand_are_kept_where_a_target_is_still_missed(self):
        page = summary.update_page(self.PAGE, FIXTURE)
        self.assertIn("| missed in 2 | tiles are coarse |", page)
        self.assertNotIn("was slow", page)  # reached now
        self.assertIn(f"| missed | {summary.NO_REASON} |", page)
        self.assertEqual(summary.reasons_in(page), {"short": "tiles are coarse"})

    def test_the_page_of_the_project_has_every_block_once(self):
        page = "".join((ROOT / name).read_text(encoding="utf-8") for name in ["docs/benchmarks.md", "README.md"])
        blocks = ["targets", *summary.BLOCKS, *peers.BLOCKS]
        for block in blocks:
            self.assertEqual(page.count(f"<!-- report: {block} -->\n"), 1, block)
        self.assertEqual(page.count("<!-- report end -->"), len(blocks))

    def test_blocks_of_another_report_are_kept(self):
        blocks = {"libraries": lambda result: "fresh"}
        page = self.PAGE + "<!-- report: libraries -->\nold\n<!-- report end -->\n"
        self.assertEqual(summary.update_page(page, {}, blocks), self.PAGE + "<!-- report: libraries -->\nfresh\n<!-- report end -->\n")
        self.assertIn("<!-- report: libraries -->\nold\n", summary.update_page(page, FIXTURE))


class Reading(unittest.TestCase):
    RAW = {"context": {"host_name": "secret", "isa": "scalar", "fma_roof_GFLOP/s": "2.5", "bfloat16_roof_of": "fma in float"},
           "benchmarks": [
               {"name": "a<float>/seq:16/iterations:1/manual_time", "run_name": "a", "run_type": "iteration", "iterations": 1,
                "real_time": 2.0, "cpu_time": 3.0, "time_unit": "ms", "share_of_roof": 0.5, "x_of_b": 1.5, "threads": 1},
               {"name": "b/seq:16_median", "aggregate_name": "median", "real_time": 4.0, "time_unit": "us", "GB/s": 7.0},
               {"name": "b/seq:16_mean", "aggregate_name": "mean", "real_time": 9.0, "time_unit": "us", "GB/s": 7.0},
               {"name": "c/seq:1", "error_occurred": True, "error_message": "no", "real_time": 0.0, "time_unit": "us"}]}

    def test_medians_counters_and_errors_of_google_benchmark(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "raw.json"
            path.write_text(json.dumps(self.RAW))
            context, rows = table.medians(path)
        self.assertEqual(context, {"isa": "scalar", "fma_roof_GFLOP/s": 2.5, "bfloat16_roof_of": "fma in float"})
        self.assertEqual(rows, [
            {"benchmark": "a<float>", "sizes": {"seq": "16"}, "microseconds": 2000.0, "share_of_roof": 0.5, "x_of_b": 1.5},
            {"benchmark": "b", "sizes": {"seq": "16"}, "microseconds": 4.0, "GB/s": 7.0},
            {"benchmark": "c", "sizes": {"seq": "1"}, "error": "no"}])

    def test_rounds_become_medians_and_one_failure_does_not_hide_the_others(self):
        rounds = [[row("a", {"seq": 1}, x=value)] for value in (3.0, 1.0, 2.0)]
        rounds.append([{"benchmark": "a", "sizes": {"seq": "1"}, "error": "no"}])
        rounds.append([{"benchmark": "b", "sizes": {}, "error": "no"}])
        self.assertEqual(compare.median_rows(rounds), [row("a", {"seq": 1}, x=2.0), {"benchmark": "b", "sizes": {}, "error": "no"}])

    def test_a_peer_that_dies_is_an_error_of_its_case(self):
        peer_process = compare.Peer("false", 1)
        self.assertIn("died", peer_process.ask({}, seconds=20)["error"])
        self.assertIsNone(peer_process.process)

    def test_pairs_name_benchmarks_with_the_sizes_of_their_case(self):
        for quick in (False, True):
            for benchmark, sizes, case, _ in compare.pairs(quick):
                self.assertIn(f"<{case['type']}>", benchmark)
                self.assertEqual((sizes["seq"], sizes["dim"]), (case["seq"], case["dim"]))
                self.assertEqual(sizes.get("heads", case.get("heads", 1)), case.get("heads", 1))


def forward(dtype, seq, peers_of_row, **more):
    return {"case": {"op": "forward", "type": dtype, "mask": "causal", "heads": 8, "q_len": seq, "k_len": seq, "dim": 64},
            "peers": peers_of_row} | more


class Libraries(unittest.TestCase):
    RESULT = {
        "machine": "a processor", "compiler": "g++ 12", "commit": "1234567", "date": "2026-01-01", "rounds": 7,
        "about": {"seqprim": {"version": "avx512"}, "torch": {"version": "2.0"}, "openvino": {"version": "3.0"},
                  "onnxruntime": {"version": "1.0"}, "ggml": {"error": "ModuleNotFoundError: no ggml"}},
        "rows": [
            forward("float", 512, {"torch": {"ratio": 2.0, "implementation": "sdpa"}, "openvino": {"ratio": 1.5, "implementation": "op"},
                                   "onnxruntime": {"error": "a | b"}}, microseconds=1000.0),
            forward("float", 1024, {"torch": {"ratio": 8.0, "implementation": "sdpa"}, "openvino": {"error": "another result"}},
                    microseconds=4000.0),
            forward("bfloat16", 512, {"torch": {"ratio": 0.5, "implementation": "sdpa"}}, microseconds=500.0),
            forward("bfloat16", 1024, {}, error="died"),
            {"case": {"op": "decode", "type": "float", "mask": "full", "heads": 8, "q_len": 1, "k_len": 8192, "dim": 128},
             "peers": {"torch": {"ratio": 100.0, "implementation": "sdpa"}}, "microseconds": 10.0},
        ]}

    def test_a_column_for_what_was_measured_and_the_fastest_counts(self):
        lines = peers.libraries_markdown(self.RESULT).splitlines()
        self.assertEqual(lines[0], "| type | mask | S | d | seqprim | PyTorch | OpenVINO | the fastest of them |")
        self.assertEqual(lines[2], "| float | causal | 512 | 64 | 1.00 ms | 2.00 x | 1.50 x | OpenVINO 1.50 x |")
        self.assertEqual(lines[3], "| float | causal | 1024 | 64 | 4.00 ms | 8.00 x | - | PyTorch 8.00 x |")
        self.assertEqual(lines[4], "| bfloat16 | causal | 512 | 64 | 500.0 µs | 0.50 x | - | PyTorch 0.50 x |")
        self.assertEqual(lines[5], "| bfloat16 | causal | 1024 | 64 | died | | | |")
        self.assertEqual(lines[6], "| float | one query | 8192 | 128 | 10.0 µs | 100.00 x | - | PyTorch 100.00 x |")
        self.assertEqual({line.count("|") for line in lines}, {9})

    def test_geometric_means_leave_decode_out_and_say_how_many_they_are_of(self):
        lines = peers.libraries_markdown(self.RESULT).splitlines()
        self.assertEqual(lines[7], "| float | forward, geometric mean of 2 | | | | 4.00 x | 1.50 x (1) | 3.46 x |")
        self.assertEqual(lines[8], "| bfloat16 | forward, geometric mean of 1 | | | | 0.50 x | - | 0.50 x |")
        self.assertAlmostEqual(peers.geometric_mean([1, 10, 100]), 10)

    def test_what_is_left_out_is_named_with_its_reason(self):
        text = peers.setup_markdown(self.RESULT)
        self.assertIn("- PyTorch 2.0: float by `sdpa`; bfloat16 by `sdpa`; not in every bfloat16 row: not measured", text)
        self.assertIn("- OpenVINO 3.0: float by `op`; not in every float row: another result; no bfloat16: not measured", text)
        self.assertIn("- ONNX Runtime 1.0: no float: a \\| b", text)
        self.assertIn("- ggml: left out (ModuleNotFoundError: no ggml)", text)
        self.assertIn("- oneDNN: left out (not installed)", text)

    def test_cases_have_both_types_and_masks_and_quick_ones_are_among_them(self):
        cases = peers.cases(quick=False)
        self.assertEqual(len(cases), 2 * (2 * 4 * 2 + 1))
        for case in peers.cases(quick=True):
            self.assertIn(case, cases)
            self.assertIn(case["type"], peers.LIMITS)

    def measured(self, answers):
        """The row of a case whose servers give these answers: to "check", then times."""
        class Fake:
            def __init__(self, replies):
                self.checked, *self.times = replies

            def ask(self, request):
                return {"microseconds": self.times.pop(0)} if "seconds" in request else self.checked if "check" in request else {}

        return peers.measure_case(peers.cases(True)[0], {name: Fake(replies) for name, replies in answers.items()}, 3, 0.1)

    def test_ratios_are_of_neighbors_and_a_wrong_result_is_not_timed(self):
        right = {"implementation": "one"}
        row = self.measured({"seqprim": [right, 10, 20, 30], "torch": [right, 20, 60, 60], "ggml": [{"error": "another result"}]})
        self.assertEqual(row["microseconds"], 20)
        self.assertEqual(row["peers"]["torch"]["ratio"], 2)  # median of 2, 3, 2
        self.assertEqual((row["peers"]["torch"]["lowest_ratio"], row["peers"]["torch"]["highest_ratio"]), (2, 3))
        self.assertEqual(row["peers"]["ggml"], {"error": "another result"})
        self.assertEqual(peers.best_peer(row), ("torch", 2))

    @unittest.skipUnless(sys.platform == "linux", "reads /proc")
    def test_a_server_runs_only_while_it_is_asked_and_ends_when_killed(self):
        echo = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
        server = peers.Server([sys.executable, "-c", echo], os.environ)
        state = lambda: pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        try:
            self.assertEqual(server.ask({"a": 1}, seconds=20), {"a": 1})
            deadline = time.monotonic() + 20
            while state() != "T" and time.monotonic() < deadline:
                time.sleep(0.01)
            self.assertEqual(state(), "T")
            self.assertEqual(server.ask({"b": 2}, seconds=20), {"b": 2})
        finally:
            server.kill()
        self.assertEqual(server.process.returncode, -9)
        self.assertEqual(server.ask({}), {"error": "died"})
        silent = peers.Server([sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
        self.assertEqual(silent.ask({}, seconds=0.2), {"error": "no answer in 0.2 s"})
        self.assertIsNotNone(silent.process.returncode)


if __name__ == "__main__":
    unittest.main()
