#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The steps of scripts/gpu_check.sh, which describes them: runs their parts, each within its time, and writes down after each of them
what is known. Needs Python 3.9, no packages."""
import argparse
import contextlib
import datetime
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "benchmarks", "report"))
import gpu_result  # noqa: E402

WORK = os.environ.get("SEQPRIM_WORK_DIR", os.path.join(ROOT, "build", "gpu_check"))
MOST_BYTES = 64 << 20  # of the programs of 'build', so that they travel
OUTPUT = 16000         # characters of a part's output that a result keeps
APART = ("functors", "sampling", "large", "streams")  # groups with a step of their own; 'correctness' takes the others


class CutOff(BaseException):
    """A signal that ends the program."""


def say(text):
    print(f"[seqprim] {text}", flush=True)


def seconds_of(name, default):
    return float(os.environ[name]) if os.environ.get(name) else default


class Step:
    """One step: the parts it plans, what became of each, and the file that says so."""

    def __init__(self, name, machine, commit, budget):
        self.name, self.begin, self.budget = name, time.monotonic(), budget
        today = datetime.date.today().isoformat()
        gpu = re.sub(r"[^a-z0-9]+", "-", machine["gpu"].lower()).strip("-")
        folder = os.environ.get("SEQPRIM_RESULT_DIR") or os.path.join(ROOT, "benchmarks", "results")
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, f"{gpu}-{today}-{commit}-{name}.json")
        self.before = (gpu_result.read_json(self.path) or {"runs": []})["runs"]
        self.result = {"step": name, "result": "running", "seconds": 0, "machine": machine, "commit": commit, "date": today,
                       "parts": []}
        os.makedirs(os.path.join(WORK, "logs"), exist_ok=True)
        self.write()

    def write(self):
        self.result["seconds"] = round(time.monotonic() - self.begin, 1)
        with open(self.path + ".part", "w", encoding="utf-8") as file:
            json.dump({"runs": [*self.before, self.result]}, file, indent=1)
            file.write("\n")
        os.replace(self.path + ".part", self.path)

    def plan(self, names):
        """What will run, so that a file of a step that was cut off names what is missing."""
        self.result["parts"] += [{"part": name, "result": "waiting"} for name in names]
        self.write()

    def part(self, name):
        for part in self.result["parts"]:
            if part["part"] == name:
                return part
        self.result["parts"].append({"part": name, "result": "waiting"})
        return self.result["parts"][-1]

    def end(self, name, result, detail="", **more):
        part = self.part(name)
        part.update(result=result, **({"detail": detail} if detail else {}), **more)
        self.write()
        say(f"{self.name} {name}: {result}{f' ({detail.splitlines()[0]})' if detail else ''}")

    def cannot(self, reason, names=None):
        for name in names or [p["part"] for p in self.result["parts"] if p["result"] == "waiting"]:
            self.end(name, "could not run", reason)

    def left(self):
        return self.budget - (time.monotonic() - self.begin)

    def run(self, name, command, limit, environment=None, read=None):
        """Runs a part for at most `limit` seconds. read(output, part) may add to the part and returns what is wrong, or ''."""
        if self.left() < min(5, self.budget / 2):
            self.end(name, "could not run", f"the budget of {self.budget:.0f} s is over")
            return False
        limit = min(limit, self.left())
        part = self.part(name)
        part.update(result="running", command=" ".join(command))
        self.write()
        say(f"{self.name} {name} ...")
        log = os.path.join(WORK, "logs", re.sub(r"\W+", "_", f"{self.name}_{name}") + ".log")
        begin, status = time.monotonic(), None
        with open(log, "wb") as output:
            try:
                process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                           start_new_session=True, env={**os.environ, **(environment or {})})
            except OSError as error:
                self.end(name, "could not run", str(error))
                return False
            try:
                status = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                pass
            finally:
                end_group(process)
                with open(log, encoding="utf-8", errors="replace") as file:
                    text = file.read()
                part.update(seconds=round(time.monotonic() - begin, 1), output=text[-OUTPUT:])
        fault = f"time limit of {limit:.0f} s" if status is None else "" if status == 0 else f"status {status}"
        if status == 77:
            fault = "skipped itself, although there is a GPU"
        if read is not None:
            fault = "; ".join(filter(None, [fault, read(text, part)]))
        self.end(name, "failed" if fault else "passed", fault)
        return not fault

    def close(self):
        found = [part["result"] for part in self.result["parts"]]
        for result in ("failed", "cut off", "passed", "no GPU", "could not run"):
            if result in found:
                break
        else:
            result = "could not run"
        self.result["result"] = result
        self.write()
        say(f"{self.name}: {result}; {self.path}")
        return result

    def cut(self, reason):
        for part in self.result["parts"]:
            if part["result"] in ("running", "waiting"):
                part.update(result="cut off" if part["result"] == "running" else "could not run", detail=reason)
        self.close()


def end_group(process):
    """Ends a process and all that it started."""
    for what, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, what)
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue
        break


def answer_of(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def machine_here():
    """GPU and toolkit; "gpu" is 'no GPU' where there is none."""
    query = answer_of(["nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total,power.limit",
                       "--format=csv,noheader", "-i", "0"])
    fields = [x.strip() for x in query.split(",")] if "GPU 0" in answer_of(["nvidia-smi", "-L"]) else []
    found = dict(zip(("gpu", "driver", "compute_capability", "memory", "power_limit"), fields)) or {"gpu": "no GPU"}
    version = re.search(r"release [\d.]+, V([\d.]+)", answer_of(["nvcc", "--version"]))
    return found | {"cuda": version.group(1) if version else "no nvcc"}


def commit_here(programs):
    if os.environ.get("SEQPRIM_COMMIT"):
        return os.environ["SEQPRIM_COMMIT"]
    commit = answer_of(["git", "-C", ROOT, "rev-parse", "--short=10", "HEAD"]).strip()
    if not commit:
        return (gpu_result.read_json(os.path.join(programs, "build.json")) or {}).get("commit", "unknown")
    changed = answer_of(["git", "-C", ROOT, "status", "--porcelain", "--", "include", "tests", "benchmarks", "cmake"])
    return commit + ("-modified" if changed.strip() else "")


def architectures_for(machine):
    if os.environ.get("SEQPRIM_ARCHITECTURES"):
        return os.environ["SEQPRIM_ARCHITECTURES"].split(";")
    capability = machine.get("compute_capability", "9.0").replace(".", "")
    return [("90a" if capability == "90" else capability) + "-real"]  # the 'a' for what only Hopper has


def runs_on(architectures, capability):
    """Whether machine code for one of the architectures runs on a GPU: the same major version, and no newer one."""
    major, minor = (int(x) for x in capability.split("."))
    for name in architectures:
        digits = re.match(r"(\d+)(\d)([af]?)", name)
        own_major, own_minor = int(digits.group(1)), int(digits.group(2))
        if own_major == major and (own_minor == minor if digits.group(3) else own_minor <= minor):
            return True
    return False


class Check:
    def __init__(self, programs):
        self.programs = os.path.abspath(programs)
        self.machine = machine_here()
        self.gpu = self.machine["gpu"] != "no GPU"
        self.commit = commit_here(self.programs)
        self.step = None

    def program(self, name):
        return os.path.join(self.programs, name)

    def no_programs(self):
        """Why the programs that are there cannot be used here, or ''."""
        built = gpu_result.read_json(self.program("build.json"))
        if built is None:
            return f"no programs in {self.programs}"
        if self.gpu and not runs_on(built["architectures"], self.machine["compute_capability"]):
            return (f"{self.programs} is built for {' '.join(built['architectures'])}, not for compute capability "
                    f"{self.machine['compute_capability']}")
        return ""

    # --- the steps

    def build(self, step):
        step.plan(["configure tests", "build tests", "kernels", "configure benchmarks", "build benchmarks", "collect"])
        missing = [name for name in ("cmake", "nvcc") if shutil.which(name) is None]
        if "CXX" not in os.environ:
            missing.append("g++ 12 or newer")
        if missing:
            step.cannot(f"{', '.join(missing)} not found")
            return
        architectures = architectures_for(self.machine)
        folders = {name: os.path.join(WORK, name) for name in ("tests", "benchmarks")}

        def configure(name, *options):
            # Another compiler may warn of what this one does not: that must not cost a run.
            return step.run(f"configure {name}", [
                "cmake", "-S", ROOT, "-B", folders[name], "--compile-no-warning-as-error", "-DCMAKE_BUILD_TYPE=Release",
                "-DSEQPRIM_CUDA=REQUIRED", f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(architectures)}", "-DSEQPRIM_EXAMPLES=OFF",
                "-DSEQPRIM_INSTALL=OFF", "-DCMAKE_BUILD_RPATH=$ORIGIN/lib",
                f"-DSEQPRIM_DEPS_DIR={os.environ.get('SEQPRIM_DEPS_DIR', '')}", *options], 120)

        def build(name, target):
            jobs = os.environ.get("SEQPRIM_JOBS", str(os.cpu_count()))
            return step.run(f"build {name}", ["cmake", "--build", folders[name], "--target", target, "--parallel", jobs], 1e9)

        if not (configure("tests", "-DSEQPRIM_TESTS=GPU", "-DSEQPRIM_BENCHMARKS=OFF") and build("tests", "cuda_test")):
            step.cannot("the tests were not built", [p["part"] for p in step.result["parts"] if p["result"] == "waiting"])
            return
        found = [os.path.join(folders["tests"], "tests", "cuda", "cuda_test")]
        report = os.path.join(folders["tests"], "tests", "cuda", "kernels.json")
        step.run("kernels", ["ctest", "--test-dir", folders["tests"], "-R", "^cuda_kernels$", "--output-on-failure"], 300)
        if configure("benchmarks", "-DSEQPRIM_TESTS=OFF", "-DSEQPRIM_BENCHMARKS=ON"):
            if build("benchmarks", "attention_cuda_bench"):
                found.append(os.path.join(folders["benchmarks"], "benchmarks", "attention_cuda_bench"))
        else:
            step.cannot("the benchmarks were not configured", ["build benchmarks"])
        self.collect(step, found, report, architectures)

    def collect(self, step, found, report, architectures):
        """The programs without symbols, and the libraries that another machine may not have: not those of the system's compiler,
        which are there, and newer on a newer system."""
        os.makedirs(self.program("lib"), exist_ok=True)
        for path in found:
            to = self.program(os.path.basename(path))
            shutil.copy2(path, to)
            if shutil.which("strip"):
                answer_of(["strip", to])
            for library in re.findall(r"=> (/\S+)", answer_of(["ldd", path])):
                if not re.match(r"(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|ld-linux\S*)\.so", os.path.basename(library)):
                    shutil.copy2(library, self.program("lib"))
        if os.path.exists(report):
            shutil.copy2(report, self.program("kernels.json"))
        sizes = {os.path.relpath(path, self.programs): os.path.getsize(path)
                 for path in glob.glob(self.program("**"), recursive=True) if os.path.isfile(path)}
        built = {"commit": self.commit, "architectures": architectures, "cuda": self.machine["cuda"], "bytes": sizes}
        with open(self.program("build.json"), "w", encoding="utf-8") as file:
            json.dump(built, file, indent=1)
        total = sum(sizes.values())
        step.end("collect", "passed" if total <= MOST_BYTES else "failed", f"{total >> 10} KiB in {self.programs}", bytes=sizes)

    def run_groups(self, step, names, limit, prefix=(), options=(), label=""):
        for name in names:
            step.run(f"{label}{name}", [*prefix, self.program("cuda_test"), *options, name], limit, read=gpu_result.read_group)

    def functors(self, step):
        step.plan(["functors", "sampling"])
        self.run_groups(step, ["functors", "sampling"], 120)

    def groups(self):
        return [name for name in answer_of([self.program("cuda_test"), "--list"]).split() if name not in APART]

    def correctness(self, step):
        names = self.groups()
        step.plan(names or ["groups"])
        if not names:
            step.end("groups", "failed", "cuda_test --list names none")
        self.run_groups(step, names, 180)

    def large(self, step):
        step.plan(["large"])
        self.run_groups(step, ["large"], 420)

    def streams(self, step):
        step.plan(["streams"])
        self.run_groups(step, ["streams"], 240)

    def sanitize(self, step):
        # What matters most comes first: the rest is left out when the budget is over.
        order = ["forward", "backward", "decode"]
        others = [name for name in ["streams", *self.groups(), "functors", "sampling"] if name not in order]
        plan = [(tool, name) for names in (order, others) for tool in ("memcheck", "synccheck", "racecheck") for name in names]
        step.plan([f"{tool} {name}" for tool, name in plan])
        if shutil.which("compute-sanitizer") is None:
            step.cannot("compute-sanitizer not found")
            return
        for tool, name in plan:
            command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
            self.run_groups(step, [name], 90, command, ["--short"], f"{tool} ")
            if re.search(r"Device not supported|Unable to (attach|find)|failed to (start|launch)", step.part(f"{tool} {name}").get("output", ""), re.I):
                step.cannot("compute-sanitizer does not start here")
                return

    def bench(self, step):
        filters = {"forward": "^forward", "backward": "^backward", "decode": "^decode"}
        backends = ("flash", "cudnn", "flex")
        step.plan([*filters, *backends])
        step.result.update(roofs={}, results=[], peers=[], peer_ratios=[])
        environment = {}
        if not os.environ.get("SEQPRIM_CUBLASLT"):
            packages = sysconfig.get_paths()["purelib"]
            inside = sorted(glob.glob(os.path.join(packages, "nvidia", "*", "lib", "libcublasLt.so.*")))
            if inside and "libcublasLt" not in answer_of(["ldconfig", "-p"]):
                environment["SEQPRIM_CUBLASLT"] = inside[-1]
        if os.path.exists(self.program("attention_cuda_bench")):
            for name, pattern in filters.items():
                out = os.path.join(WORK, f"bench_{name}.json")
                step.run(name, [self.program("attention_cuda_bench"), f"--benchmark_filter={pattern}", "--benchmark_repetitions=3",
                                "--benchmark_report_aggregates_only=true", f"--benchmark_out={out}",
                                "--benchmark_out_format=json"], 200, environment,
                         lambda _, part, out=out: gpu_result.read_benchmarks(out, step.result))
        else:
            step.cannot(f"no attention_cuda_bench in {self.programs}", list(filters))
        if subprocess.run([sys.executable, "-c", "import torch; assert torch.cuda.is_available()"], capture_output=True,
                          check=False).returncode != 0:
            step.cannot("PyTorch with CUDA is not installed", backends)
            return
        for backend in backends:
            out = os.path.join(WORK, f"peer_{backend}.json")
            limit = 110
            step.run(backend, [sys.executable, "-B", os.path.join(ROOT, "benchmarks", "peers", "torch_cuda.py"), "--backend", backend,
                               "--seconds", str(int(max(10, min(limit, step.left()) - 15))), "--out", out], limit,
                     read=lambda _, part, out=out: gpu_result.read_peer(out, step.result))

    def profile(self, step):
        kernels = {"forward": ("forward_block_kernel", "forward_causal<bfloat16>/seq:4096/dim:128/"),
                   "backward keys": ("backward_key_block_kernel", "backward_causal<bfloat16>/seq:4096/dim:128/"),
                   "backward queries": ("backward_query_block_kernel", "backward_causal<bfloat16>/seq:4096/dim:128/"),
                   "decode": ("decode_block_kernel", "decode_full<bfloat16>/context:32768/group:4/batch:16/")}
        step.plan(kernels)
        step.result["profiles"] = {}
        for reason, present in (("ncu not found", shutil.which("ncu")), (f"no attention_cuda_bench in {self.programs}", os.path.exists(
                self.program("attention_cuda_bench")))):
            if not present:
                step.cannot(reason)
                return
        sections = ("SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "WarpStateStats", "Occupancy",
                    "LaunchStats", "SchedulerStats")
        for name, (kernel, case) in kernels.items():
            step.run(name, ["ncu", "--clock-control", "none", "--kernel-name", f"regex:{kernel}", "--launch-skip", "1",
                            "--launch-count", "1", *(x for section in sections for x in ("--section", section)), "--csv", "--page",
                            "raw", self.program("attention_cuda_bench"), f"--benchmark_filter={case}"], 110,
                     read=lambda text, part, name=name: gpu_result.read_profile(text, step.result["profiles"], name))

    # --- around them

    def run(self, name):
        """The result of a step."""
        without_limit = name == "build" and not self.gpu
        budget = seconds_of("SEQPRIM_BUDGET_SECONDS", 1e9 if without_limit else 450)
        step = self.step = Step(name, self.machine, self.commit, budget)
        body = getattr(self, name)
        if name == "build":
            body(step)
        elif not self.gpu:
            step.end(name, "no GPU", "nvidia-smi names none")
        elif self.no_programs():
            step.cannot(self.no_programs(), [name])
        else:
            body(step)
        result = step.close()
        self.step = None
        return result


STEPS = ("build", "functors", "correctness", "large", "streams", "sanitize", "bench", "profile")


def main():
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description="See gpu_check.sh --help.")
    parser.add_argument("--prebuilt", metavar="DIR", default=os.path.join(WORK, "programs"))
    parser.add_argument("steps", nargs="*", metavar="step")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.steps if name not in STEPS]
    if unknown:
        parser.error(f"unknown step '{unknown[0]}'; steps: {' '.join(STEPS)}")

    ends = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def cut(number, frame):
        for each in ends:
            signal.signal(each, signal.SIG_IGN)  # the file is written in peace
        raise CutOff(signal.Signals(number).name)

    for number in ends:
        signal.signal(number, cut)
    check = None
    results = {}
    try:
        check = Check(arguments.prebuilt)
        steps = arguments.steps or list(STEPS)
        if check.gpu and "build" not in steps and check.no_programs():
            say(f"{check.no_programs()}: building")
            steps = ["build", *steps]
        for name in steps:
            results[name] = check.run(name)
    except CutOff as signal_name:
        if check is not None and check.step is not None:
            check.step.cut(f"ended by {signal_name}")
        return 1
    if any(result in ("failed", "cut off") for result in results.values()):
        return 1
    return 77 if "no GPU" in results.values() else 0


if __name__ == "__main__":
    sys.exit(main())
