#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of scripts/gpu_check.sh without a GPU and without a build: what its steps leave when there is no GPU, when programs pass, fail
or hang (small scripts stand in for them), and when a step is cut off. And of benchmarks/report/gpu_result.py, which reads them."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks/report"), str(ROOT / "scripts")]
import gpu_check  # noqa: E402
import gpu_result  # noqa: E402

GPU = """if [ "$1" = -L ]; then echo 'GPU 0: Some GPU (UUID: GPU-1)'; else echo 'Some GPU, 580.1, 9.0, 143771 MiB, 700.00 W'; fi"""
TESTS = """
if [ "$1" = --list ]; then printf '%s\\n' backward decode functors large sampling streams; exit 0; fi
for name in "$@"; do :; done
case "$name" in
  decode)
    echo 'decode_test.cu:7: not true: distance(a, b) <= budget: error 2, budget 1' >&2
    echo '  in seed 5, trial 2: batch 1' >&2
    echo 'decode: FAILED'
    exit 1 ;;
  large) echo $$ >"$PIDS"; sleep 60 ;;
esac
echo "$name: passed"
echo "$name: worst error/budget 0.25: distance(a, b) <= budget: error 1, budget 4 in seed 3"
"""
SANITIZER = """
echo '========= COMPUTE-SANITIZER'
shift 4; "$@" || exit 9
echo '========= ERROR SUMMARY: 0 errors'"""
NCU = """
printf '==PROF== Connected\\n"ID","Kernel Name","sm__throughput.avg.pct_of_peak","launch__registers"\\n'
printf '"","","%%","register/thread"\\n"0","decode_block_kernel","1,234.5","128"\\n'"""


class Steps(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.results = self.folder / "results"
        self.programs = self.folder / "programs"
        self.programs.mkdir()
        self.environment = dict(
            os.environ, PATH=f"{self.folder / 'bin'}:{os.environ['PATH']}", SEQPRIM_RESULT_DIR=str(self.results),
            SEQPRIM_WORK_DIR=str(self.folder / "work"), SEQPRIM_COMMIT="1234567", PIDS=str(self.folder / "pid"))
        self.environment.pop("SEQPRIM_BUDGET_SECONDS", None)
        self.script(self.folder / "bin/nvidia-smi", "exit 9")
        self.script(self.programs / "cuda_test", TESTS)
        (self.programs / "build.json").write_text(json.dumps({"architectures": ["90a-real"], "commit": "1234567"}))

    def script(self, path, text):
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/usr/bin/env bash\n" + text + "\n")
        path.chmod(0o755)

    def with_gpu(self):
        self.script(self.folder / "bin/nvidia-smi", GPU)

    def start(self, *steps):
        return subprocess.Popen(["bash", str(ROOT / "scripts/gpu_check.sh"), "--prebuilt", str(self.programs), *steps],
                                env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def check(self, *steps, status):
        process = self.start(*steps)
        output = process.communicate(timeout=60)[0]
        self.assertEqual(process.returncode, status, output)
        return output

    def run_of(self, step):
        paths = list(self.results.glob(f"*-1234567-{step}.json"))
        self.assertEqual(len(paths), 1)
        return json.loads(paths[0].read_text())["runs"][-1]

    def parts_of(self, step):
        return {part["part"]: part for part in self.run_of(step)["parts"]}

    def test_without_a_gpu_each_step_says_so(self):
        steps = [step for step in gpu_check.STEPS if step != "build"]
        self.check(*steps, status=77)
        for step in steps:
            run = self.run_of(step)
            self.assertEqual((run["result"], run["machine"]["gpu"]), ("no GPU", "no GPU"))
        self.assertEqual(len(list(self.results.iterdir())), len(steps))

    def test_an_unknown_step_is_refused(self):
        self.assertIn("unknown step 'everything'", self.check("everything", status=2))
        self.assertIn("SEQPRIM_BUDGET_SECONDS", self.check("--help", status=0))

    def test_passed_and_failed_groups(self):
        self.with_gpu()
        self.check("functors", "correctness", status=1)
        self.assertEqual(self.run_of("functors")["result"], "passed")
        self.assertEqual(self.parts_of("functors")["sampling"]["worst_error_over_budget"], 0.25)
        parts = self.parts_of("correctness")
        self.assertEqual({name: part["result"] for name, part in parts.items()}, {"backward": "passed", "decode": "failed"})
        self.assertIn("error 2, budget 1\n  in seed 5, trial 2", parts["decode"]["detail"])
        self.assertEqual(self.run_of("correctness")["machine"]["compute_capability"], "9.0")
        self.check("functors", status=0)  # a second run is added
        path = next(self.results.glob("*-functors.json"))
        self.assertEqual(len(json.loads(path.read_text())["runs"]), 2)
        tables = subprocess.run([sys.executable, "-B", ROOT / "benchmarks/report/gpu_result.py", path], capture_output=True,
                                text=True, check=True).stdout
        self.assertIn("| sampling | passed |", tables)

    def test_sanitizer_and_profiler(self):
        self.with_gpu()
        self.script(self.folder / "bin/compute-sanitizer", SANITIZER)
        self.script(self.folder / "bin/ncu", NCU)
        self.script(self.programs / "attention_cuda_bench", "")
        self.check("sanitize", "profile", status=1)
        parts = self.parts_of("sanitize")
        self.assertEqual(parts["synccheck backward"]["summary"], "ERROR SUMMARY: 0 errors")
        self.assertEqual(parts["racecheck decode"]["result"], "failed")
        self.assertNotIn("memcheck large", parts)
        self.assertEqual(self.run_of("profile")["result"], "passed")
        self.assertEqual(self.run_of("profile")["profiles"]["decode"],
                         {"ID": 0, "Kernel Name": "decode_block_kernel", "sm__throughput.avg.pct_of_peak [%]": 1234.5,
                          "launch__registers [register/thread]": 128})

    def test_what_is_missing_is_named(self):
        self.with_gpu()
        self.check("bench", status=0)
        self.assertIn("no attention_cuda_bench", self.parts_of("bench")["forward"]["detail"])

    def test_a_part_that_hangs_ends(self):
        self.with_gpu()
        self.environment["SEQPRIM_BUDGET_SECONDS"] = "1"
        self.check("large", status=1)
        self.assertEqual(self.parts_of("large")["large"]["detail"], "time limit of 1 s")
        self.assert_ended()

    def assert_ended(self):
        pid = int((self.folder / "pid").read_text())
        for _ in range(100):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)
        self.fail("the program still runs")

    def started(self, *steps):
        self.with_gpu()
        process = self.start(*steps)
        for _ in range(400):
            if (self.folder / "pid").exists() and (self.folder / "pid").read_text():
                return process
            time.sleep(0.05)
        process.kill()
        self.fail("the step did not start: " + process.communicate()[0])

    def test_a_step_that_is_cut_off_leaves_its_file(self):
        process = self.started("large", "streams")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode, 1)
        self.assertEqual(self.run_of("large")["result"], "cut off")
        self.assertEqual(self.parts_of("large")["large"]["detail"], "ended by SIGTERM")
        self.assert_ended()
        self.assertEqual(len(list(self.results.iterdir())), 1)

    def test_a_step_that_is_killed_leaves_its_file(self):
        process = self.started("large")
        process.kill()
        process.communicate(timeout=30)
        self.assertEqual(self.parts_of("large")["large"]["result"], "running")
        os.killpg(int((self.folder / "pid").read_text()), signal.SIGKILL)


class Architectures(unittest.TestCase):
    def test_where_machine_code_runs(self):
        for names, capability, expected in ((["90a-real"], "9.0", True), (["90a-real"], "9.1", False), (["80-real"], "8.9", True),
                                            (["86"], "8.0", False), (["80", "90a"], "10.0", False), (["100f"], "10.0", True)):
            self.assertEqual(gpu_check.runs_on(names, capability), expected, (names, capability))


class Readers(unittest.TestCase):
    def test_a_share_that_is_not_a_number_stays_json(self):
        part = {}
        gpu_result.read_group("a: FAILED\na: worst error/budget nan: x <= y: error nan, budget 1 in seed 1\n", part)
        self.assertEqual(part["worst_error_over_budget"], "nan")

    def test_benchmarks_and_peers(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "bench.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"context": {"copy_roof_GB/s": "4000", "date": "x"}, "benchmarks": [
                    {"name": "forward<bfloat16>/seq:1024/dim:64/manual_time_median", "aggregate_name": "median", "real_time": 2.0,
                     "time_unit": "ms", "TFLOP/s": 5.0},
                    {"name": "forward<bfloat16>/seq:1024/dim:64/manual_time_stddev", "aggregate_name": "stddev",
                     "real_time": 1.0, "time_unit": "ms"},
                    {"name": "forward<bfloat16>/seq:4096/dim:64", "error_occurred": True, "error_message": "no memory"}]}, file)
            result = {"roofs": {}, "results": [], "peers": [], "peer_ratios": []}
            self.assertIn("no memory", gpu_result.read_benchmarks(path, result))
            self.assertEqual(result["roofs"], {"copy_roof_GB/s": 4000.0})
            self.assertEqual([row.get("microseconds") for row in result["results"]], [2000.0, None])
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"torch": "2.11", "results": [{"benchmark": "forward<bfloat16>", "sizes": {"seq": "1024", "dim": "64"},
                                                         "backend": "flex", "microseconds": 1000.0}]}, file)
            self.assertEqual(gpu_result.read_peer(path, result), "")
            self.assertEqual(result["peer_ratios"][0]["peer_time_over_ours"], 0.5)
            self.assertEqual(gpu_result.read_peer(path + ".missing", result), "no results")


if __name__ == "__main__":
    unittest.main()
