#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the compiler made of the CUDA kernels: no GPU is needed to see whether registers spill or tensor cores are used.

    kernel_evidence.py [--kernels REGEX] [--tensor-core REGEX] [--expect NAME ...] [--architectures 80 90a]
                       [--program BINARY] [--cuobjdump PROGRAM] [--json FILE] REPORT ...
    kernel_evidence.py --self-test

REPORT is what 'ptxas -v' printed, in <object>.resources where cmake/record_resources.sh leaves it; the name of the object
file will do. For every kernel in it:

    no stack frame, no spill stores, no spill loads, at most 255 registers

and in the whole report no 'Potential Performance Loss' (C75xx): a kernel that ptxas serializes is correct and slow. If
cuobjdump and nvdisasm are found (--cuobjdump, PATH, the CUDA toolkit, .deps/disassembler of scripts/setup.sh, an installed
triton package), the machine code of --program shows

    no access to local memory (LDL, STL)

and for kernels whose function name matches --tensor-core

    tensor-core products (HMMA), 16-byte loads (LDGSTS or LDG with .128)

Prints a table, names every kernel that breaks a rule, and fails when a kernel of --expect, or any kernel at all, is
missing for an architecture. Needs Python 3.8, no packages.
"""
import argparse
import collections
import glob
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

MOST_REGISTERS = 255
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Kernel:
    def __init__(self, symbol, architecture):
        self.symbol, self.architecture = symbol, architecture
        self.registers = self.shared = self.stack = self.spill_stores = self.spill_loads = None
        self.code = None  # how often each instruction of interest occurs


def read_report(text):
    """The kernels of one ptxas report, in its order."""
    kernels, current, properties_of = [], None, None
    for line in text.splitlines():
        found = re.search(r"Compiling entry function '(\S+)' for '(\w+)'", line)
        if found:
            current = Kernel(found.group(1), found.group(2))
            kernels.append(current)
            continue
        found = re.search(r"Function properties for (\S+)", line)
        if found:
            properties_of = found.group(1)
            continue
        found = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)
        if found and current:
            # A function that was not inlined into a kernel has properties of its own; its stack counts for the kernel.
            numbers = [int(x) for x in found.groups()]
            own = properties_of in (None, current.symbol)
            before = [current.stack or 0, current.spill_stores or 0, current.spill_loads or 0]
            if own or any(numbers):
                current.stack, current.spill_stores, current.spill_loads = [a + b for a, b in zip(before, numbers)]
            continue
        found = re.search(r"Used (\d+) registers", line)
        if found and current:
            current.registers = int(found.group(1))
            shared = re.search(r"(\d+) bytes smem", line)
            current.shared = int(shared.group(1)) if shared else 0
    return kernels


def read_losses(text):
    """What ptxas says about speed that it gave up, as sentences; some name the kernel, some do not."""
    return re.findall(r"\(C\d+\) Potential Performance Loss.*", text)


INSTRUCTIONS = {
    "products": r"HMMA\.",
    "wide copies": r"LDGSTS\.(.*\.)?128\b",
    "wide loads": r"LDG\.(.*\.)?128\b",
    "copies": r"LDGSTS\.",
    "matrix loads": r"LDSM\.",
    "local": r"(LDL|STL)\b",
}


def read_code(text):
    """{(architecture, symbol): {kind of instruction: count}} of a 'cuobjdump -sass' listing."""
    instruction = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]*)")
    functions, architecture, opcodes = {}, None, None
    for line in text.splitlines():
        found = instruction.match(line)
        if found:
            if opcodes is not None:
                opcodes[found.group(1)] += 1
            continue
        found = re.match(r"arch = (sm_\w+)", line)  # 'code for' forgets the letter of sm_90a
        if found:
            architecture, opcodes = found.group(1), None
            continue
        found = re.match(r"\s*Function : (\S+)", line)
        if found:
            # Each object that uses a kernel brings a copy of it.
            opcodes = functions[architecture, found.group(1)] = collections.Counter()
    return {function: {kind: sum(n for opcode, n in opcodes.items() if re.match(pattern, opcode))
                       for kind, pattern in INSTRUCTIONS.items()}
            for function, opcodes in functions.items()}


def faults_of(kernel, tensor_core):
    """The rules that one kernel breaks, as sentences."""
    faults = []
    if None in (kernel.registers, kernel.stack):
        return ["the report is incomplete"]
    if kernel.stack:
        faults.append(f"uses a stack frame of {kernel.stack} bytes")
    if kernel.spill_stores or kernel.spill_loads:
        faults.append(f"spills registers: {kernel.spill_stores} bytes of stores, {kernel.spill_loads} bytes of loads")
    if kernel.registers > MOST_REGISTERS:
        faults.append(f"uses {kernel.registers} registers")
    if kernel.code is not None:
        if kernel.code["local"]:
            faults.append(f"has {kernel.code['local']} accesses to local memory")
        if tensor_core and not kernel.code["products"]:
            faults.append("has no tensor-core product")
        if tensor_core and not kernel.code["wide copies"] + kernel.code["wide loads"]:
            faults.append("has no 16-byte load")
    return faults


def function_name(symbol):
    """'forward_kernel' of _ZN7seqprim...14forward_kernelI...: the last plain name before the template arguments."""
    at, name = (3 if symbol.startswith("_ZN") else 2), symbol
    while True:
        found = re.match(r"\d+", symbol[at:])
        if not found or not symbol.startswith("_Z"):
            return name
        begin = at + found.end()
        at = begin + int(found.group())
        name = symbol[begin:at]


def readable(symbols):
    """Names as written in C++, where c++filt is found; without the parameter list and the namespace of the project."""
    program = shutil.which("c++filt")
    plain = list(symbols)
    if program and plain:
        plain = subprocess.run([program], input="\n".join(plain), capture_output=True, text=True,
                               check=True).stdout.splitlines()
    names = {}
    for symbol, name in zip(symbols, plain):
        found = re.search(re.escape(function_name(symbol)) + r"(<.*>)?\(", name)
        name = found.group(0)[:-1] if found else name
        names[symbol] = name.replace("seqprim::", "").replace("attention::detail::", "").replace("(int)", "").replace(" >", ">")
    return names


def find_cuobjdump(given):
    """cuobjdump with nvdisasm beside it or on the PATH."""
    folders = [os.path.dirname(given)] if given else []
    folders += os.environ.get("PATH", "").split(os.pathsep)
    for root in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        folders += [os.path.join(root, "bin")] if root else []
    folders += glob.glob(os.path.join(ROOT, ".deps", "disassembler", "nvidia", "*", "bin"))
    triton = importlib.util.find_spec("triton")
    for package in (triton.submodule_search_locations or []) if triton else []:
        folders.append(os.path.join(package, "backends", "nvidia", "bin"))
    path = os.pathsep.join(folders)
    found = shutil.which("cuobjdump", path=path)
    return (found, path) if found and shutil.which("nvdisasm", path=path) else (None, path)


def disassemble(program, cuobjdump, path):
    run = subprocess.run([cuobjdump, "-sass", program], capture_output=True, text=True, env={**os.environ, "PATH": path})
    return run.stdout if run.returncode == 0 else None


def check(arguments, texts, listing):
    """(kernels, faults): faults are (kernel or None, sentence)."""
    kernels = [k for text in texts for k in read_report(text) if re.search(arguments.kernels, k.symbol)]
    code = read_code(listing) if listing is not None else {}
    faults = [(None, "ptxas: " + loss) for text in texts for loss in read_losses(text)]
    if not kernels:
        faults.append((None, f"no kernel matches '{arguments.kernels}' in {len(texts)} reports"))
    for kernel in kernels:
        tensor_core = bool(re.search(arguments.tensor_core, function_name(kernel.symbol)))
        if listing is not None:
            kernel.code = code.get((kernel.architecture, kernel.symbol))
            if kernel.code is None:
                faults.append((kernel, "is not in the disassembled program"))
        faults += [(kernel, sentence) for sentence in faults_of(kernel, tensor_core)]
    for architecture in arguments.architectures or sorted({k.architecture for k in kernels}):
        architecture = architecture if architecture.startswith("sm_") else "sm_" + architecture
        present = {function_name(k.symbol) for k in kernels if k.architecture == architecture}
        for name in arguments.expect:
            if name not in present:
                faults.append((None, f"kernel '{name}' was not compiled for {architecture}"))
    return kernels, faults


def print_table(kernels, names):
    print(f"{'arch':7} {'regs':>4} {'shared':>7} {'stack':>5} {'spills':>7} {'HMMA':>5} {'16 B':>5} {'LDSM':>5}  kernel")
    for k in sorted(kernels, key=lambda k: (k.architecture, names[k.symbol])):
        seen = [k.code[c] for c in ("products", "wide copies", "matrix loads")] if k.code else ["-"] * 3
        if k.code:
            seen[1] += k.code["wide loads"]
        spills = f"{k.spill_stores}+{k.spill_loads}"
        print(f"{k.architecture:7} {k.registers!s:>4} {k.shared!s:>7} {k.stack!s:>5} {spills:>7} "
              f"{seen[0]:>5} {seen[1]:>5} {seen[2]:>5}  {names[k.symbol]}")


GOOD = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7seqprim9attention6detail10mma_kernelILi64EEEvPf' for 'sm_80'
ptxas info    : Function properties for _ZN7seqprim9attention6detail10mma_kernelILi64EEEvPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 49152 bytes smem, 400 bytes cmem[0]
ptxas info    : Compile time = 30.292 ms
"""
GOOD_CODE = """\
arch = sm_80
\t\tFunction : _ZN7seqprim9attention6detail10mma_kernelILi64EEEvPf
        /*0000*/   LDGSTS.E.BYPASS.LTC128B.128 [R1], [R2.64] ;
        /*0010*/   LDSM.16.M88.4 R4, [R3] ;
        /*0020*/   HMMA.16816.F32.BF16 R4, R4, R8, RZ ;
"""


def self_test():
    """Every rule is broken once; a check that cannot fail proves nothing."""
    def verdict(report, listing, **changes):
        defaults = {"kernels": "seqprim", "tensor_core": "mma", "expect": ["mma_kernel"], "architectures": ["80"]}
        return [s for _, s in check(argparse.Namespace(**{**defaults, **changes}), [report], listing)[1]]

    cases = [
        ("a good kernel passes", verdict(GOOD, GOOD_CODE), None),
        ("and without a disassembler", verdict(GOOD, None), None),
        ("stack", verdict(GOOD.replace("0 bytes stack", "16 bytes stack"), None), "stack frame of 16"),
        ("spill stores", verdict(GOOD.replace("0 bytes spill stores", "8 bytes spill stores"), None), "spills"),
        ("spill loads", verdict(GOOD.replace("0 bytes spill loads", "4 bytes spill loads"), None), "spills"),
        ("stack of a called function", verdict(GOOD.replace("ptxas info    : Used", """\
ptxas info    : Function properties for helper
    48 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used"""), None), "stack frame of 48"),
        ("registers", verdict(GOOD.replace("255", "256"), None), "256 registers"),
        ("serialized products", verdict("""\
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient \
register resources for the wgmma pipeline in the function '_ZN7seqprim9attention6detail10mma_kernelILi64EEEvPf'
""" + GOOD, None), "(C7511) Potential Performance Loss"),
        ("a loss that names no kernel", verdict("""\
ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry.
""" + GOOD, None), "(C7508) Potential Performance Loss"),
        ("cut report", verdict(GOOD.split("    0 bytes stack")[0], None), "incomplete"),
        ("no kernel", verdict("", None, expect=[]), "no kernel matches"),
        ("kernel of another name", verdict(GOOD, None, expect=["other"]), "'other' was not compiled for sm_80"),
        ("other architecture", verdict(GOOD, None, architectures=["90a"]), "not compiled for sm_90a"),
        ("no tensor cores", verdict(GOOD, GOOD_CODE.replace("HMMA", "FFMA")), "no tensor-core product"),
        ("narrow loads", verdict(GOOD, GOOD_CODE.replace(".128 ", ".64 ")), "no 16-byte load"),
        ("wide plain loads pass", verdict(GOOD, GOOD_CODE.replace("LDGSTS.E.BYPASS.LTC128B", "LDG.E")), None),
        ("local loads", verdict(GOOD, GOOD_CODE + "        /*0030*/   LDL.64 R2, [R1] ;\n"), "local memory"),
        ("local stores", verdict(GOOD, GOOD_CODE + "        /*0030*/   STL [R1], R2 ;\n"), "local memory"),
        ("another program", verdict(GOOD, "arch = sm_80\n"), "not in the disassembled program"),
    ]
    failed = 0
    for name, sentences, expected in cases:
        right = not sentences if expected is None else any(expected in s for s in sentences)
        if not right:
            print(f"self-test '{name}': expected {expected!r}, got {sentences}")
            failed += 1
    if function_name("_ZN7seqprim9attention6detail10mma_kernelILi64EEEvPf") != "mma_kernel":
        print("self-test: function_name")
        failed += 1
    if read_code(GOOD_CODE + GOOD_CODE) != read_code(GOOD_CODE):
        print("self-test: a kernel that two objects use is counted twice")
        failed += 1
    print(f"self-test: {len(cases) + 2 - failed} of {len(cases) + 2} right")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--kernels", default="7seqprim", help="symbols to look at (regular expression)")
    parser.add_argument("--tensor-core", default="mma", help="names of kernels that use tensor cores (regular expression)")
    parser.add_argument("--expect", nargs="*", default=[], help="kernels that must be there, for every architecture")
    parser.add_argument("--architectures", nargs="*", default=[], help="such as 80 90a; default: those of the reports")
    parser.add_argument("--program", action="append", default=[], help="binary to disassemble, with all the kernels")
    parser.add_argument("--cuobjdump", default="")
    parser.add_argument("--json", help="also write the numbers there")
    parser.add_argument("reports", nargs="*")
    arguments = parser.parse_args()
    if arguments.self_test:
        return 1 if self_test() else 0

    texts = []
    for path in arguments.reports:
        with open(path if path.endswith(".resources") else path + ".resources", encoding="utf-8") as file:
            texts.append(file.read())
    listing = None
    cuobjdump, path = find_cuobjdump(arguments.cuobjdump)
    if arguments.program and cuobjdump:
        parts = [disassemble(program, cuobjdump, path) for program in arguments.program]
        listing = "\n".join(parts) if None not in parts else None
        if listing is None:
            print(f"note: {cuobjdump} cannot read the program, its machine code is not looked at")
    elif arguments.program:
        print("note: no cuobjdump with nvdisasm found, the machine code is not looked at")

    kernels, faults = check(arguments, texts, listing)
    names = readable([k.symbol for k in kernels])
    print_table(kernels, names)
    for kernel, sentence in faults:
        print(f"FAILED: {kernel.architecture + ' ' + names[kernel.symbol] + ' ' if kernel else ''}{sentence}")
    print(f"{len(kernels)} kernels, {len(faults)} faults")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump([{"kernel": names[k.symbol], "architecture": k.architecture, "registers": k.registers,
                        "shared_bytes": k.shared, "stack_bytes": k.stack, "spill_bytes": k.spill_stores + k.spill_loads,
                        "instructions": k.code} for k in kernels if k.registers is not None], file, indent=1)
            file.write("\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
