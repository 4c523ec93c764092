#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a user does with the language model: train, interrupt, resume, write, and make mistakes.
#
#   session_test.sh PROGRAM FOLDER
set -euo pipefail
program=$1
folder=$2
rm -rf "$folder"
mkdir -p "$folder"
cd "$folder"

failures=0
fail() {
  echo "FAILED: $*" >&2
  failures=$((failures + 1))
}

for i in $(seq 400); do echo "line $i of a text that repeats itself, as texts of programs do: $((i % 7)) $((i % 13))"; done >text.txt
common=(--text text.txt --dim 32 --layers 2 --heads 2 --kv-heads 1 --context 32 --batch 4 --steps 30 --warmup 5 --evaluate-every 10)

# An interrupted and resumed run ends in the same file, bit for bit, as one without the pause; so does another thread count.
"$program" "${common[@]}" --out whole --generate 60 --threads 1 >whole.log
"$program" "${common[@]}" --out parts --stop-after 7 --threads 2 >first.log
grep -q "stopped after step 7 and saved" first.log || fail "--stop-after does not say where it stopped"
"$program" --text text.txt --out parts --resume --evaluate-every 10 --stop-after 23 >second.log
"$program" --text text.txt --out parts --resume --evaluate-every 10 --generate 60 --threads 2 >third.log
cmp whole/model.safetensors parts/model.safetensors || fail "a resumed run differs from an uninterrupted one"
cmp whole/loss.svg parts/loss.svg || fail "the loss curve of a resumed run differs"

# The same seed writes the same text, another one another.
written() { sed -n '/--- it writes/,/^---$/p' "$1" | tail -n +2; }
[[ "$(written whole.log)" == "$(written third.log)" ]] || fail "the same seed wrote another text with other threads"
"$program" --text text.txt --out parts --resume --generate 60 >again.log
[[ "$(written whole.log)" == "$(written again.log)" ]] || fail "writing again from the checkpoint gave another text"
"$program" --text text.txt --out parts --resume --generate 200 --temperature 0 --prompt "line" >greedy.log || fail "greedy writing"

"$program" --text text.txt --out parts --resume --generate 60 --write-seed 5 >other.log
[[ "$(written whole.log)" != "$(written other.log)" ]] || fail "another seed wrote the same text"

# Ctrl-C saves and ends with status 0.
"$program" "${common[@]}" --steps 100000 --out interrupted >interrupted.log &
pid=$!
for _ in $(seq 1200); do grep -q "^step" interrupted.log && break; sleep 0.1; done
sleep 0.5
kill -INT $pid
status=0
wait $pid || status=$?
[[ $status == 0 ]] || fail "Ctrl-C ended with status $status"
grep -q "stopped after step" interrupted.log || fail "Ctrl-C did not say that it saved"
[[ -s interrupted/model.safetensors && -s interrupted/loss.svg ]] || fail "Ctrl-C did not save"

# Mistakes: one line, status 2, nothing touched.
before=$(cat parts/* | cksum)
refuses() {
  local expected=$1
  shift
  local status=0
  "$program" "$@" >out.log 2>err.log || status=$?
  [[ $status == 2 ]] || fail "status $status instead of 2: $*"
  [[ $(wc -l <err.log) == 1 ]] || fail "not one line: $*: $(cat err.log)"
  grep -qF -- "$expected" err.log || fail "'$expected' is not in: $(cat err.log)"
}
: >empty.txt
head -c 300 text.txt >short.txt
refuses "does not exist" --text missing.txt
refuses "is not a file" --text .
refuses "the text has 0 bytes" --text empty.txt --out new
refuses "needs at least" --text short.txt --out new
if [[ $(id -u) != 0 ]]; then
  cp text.txt locked.txt
  chmod 000 locked.txt
  refuses "cannot be read" --text locked.txt
fi
refuses "needs a number, not 'many'" --text text.txt --steps many
refuses "--steps 0 is outside" --text text.txt --steps 0
refuses "must be a multiple of 2 * --heads" --text text.txt --dim 30 --heads 4
refuses "must be a multiple of --kv-heads" --text text.txt --dim 32 --heads 4 --kv-heads 3
refuses "make --dim, --layers, --batch or --context smaller" --text text.txt --dim 8192 --layers 128 --batch 4096 --context 65536 --heads 16
refuses "is outside" --text text.txt --dim 99999999999999999999
refuses "unknown flag '--size'" --size 3
refuses "needs a value" --steps
refuses "parts" --text text.txt --out parts/model.safetensors
refuses "nowhere" --text text.txt --out nowhere --resume
refuses "another text" --text short.txt text.txt --out parts --resume
refuses "--stop-after (30) must lie after step 30" --text text.txt --out parts --resume --stop-after 30
refuses "was trained with seed 1, not 7; leave the flag out" --text text.txt --out parts --resume --seed 7
refuses "needs the name of a folder" --text text.txt --out ""
refuses "dim" --text text.txt --out parts --resume --dim 64
cp -r parts damaged
printf 'garbage' | dd of=damaged/model.safetensors bs=1 seek=20 conv=notrunc 2>/dev/null
refuses "damaged/model.safetensors" --text text.txt --out damaged --resume
head -c 5000 parts/model.safetensors >damaged/model.safetensors
refuses "damaged/model.safetensors" --text text.txt --out damaged --resume
# A checkpoint whose metadata says something else than a run of this program can have been started with.
tamper() {  # tamper NAME VALUE: damaged/model.safetensors with this fact
  local LC_ALL=C file=parts/model.safetensors size header i
  size=$(od -An -tu8 -N8 $file | tr -d ' ')
  header=$(head -c $((8 + size)) $file | tail -c "$size" | sed "s/\"$1\":\"[^\"]*\"/\"$1\":\"$2\"/")
  while ((${#header} % 8)); do header+=' '; done
  {
    for i in 0 1 2 3 4 5 6 7; do printf "\\x$(printf %02x $((${#header} >> 8 * i & 255)))"; done
    printf '%s' "$header"
    tail -c +$((9 + size)) $file
  } >damaged/model.safetensors
}
tamper heads 2
"$program" --text text.txt --out damaged --resume --generate 0 >out.log || fail "an untouched fact is refused"
for fact in "heads 0" "heads -2" "context 4611686018427387904" "dim 9223372036854775800" "batch 0" "layers 0" "steps 0" \
  "kv_heads 257" "learning_rate nan" "clip 0"; do
  tamper $fact
  refuses "damaged/model.safetensors: $fact is outside" --text text.txt --out damaged --resume
done
tamper heads 99999999999999999999
refuses "outside of what a number can hold" --text text.txt --out damaged --resume
[[ "$before" == "$(cat parts/* | cksum)" ]] || fail "a mistake touched the files of an earlier run"
[[ ! -e new ]] || fail "a refused run made its folder"
status=0
"$program" --text text.txt --out parts --resume --generate 0 >/dev/full 2>err.log || status=$?
[[ $status == 2 ]] && grep -q "standard output" err.log || fail "a full disk behind the output was not noticed"
"$program" --help | grep -q -- "--temperature" || fail "--help says nothing of --temperature"

[[ $failures == 0 ]] && echo "all sessions went as they should"
exit $((failures > 0))
