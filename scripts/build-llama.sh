#!/usr/bin/env bash
# Builds llama.cpp, the engine that examples/llama runs on, once per machine and version.
#
#   scripts/build-llama.sh          progress on standard error, the folder it is in on standard output
#
# Afterwards that folder holds include/ and lib/ (to compile and link against) and venv/ (a Python
# with the `gguf` package, for examples/llama/make_model.py). The sources come with the
# `llama-cpp-python` source package, fetched by pip.
#
#   HOSTKV_CACHE_DIR   where the folder goes, default $HOME/.cache/hostkv
#
# The file `stamp` is written last and names everything the result depends on: pinned versions, this
# recipe, and the processor, since llama.cpp is compiled for the processor it is built on. Equal stamp =
# nothing to do. One run at a time: the others wait for the lock and then find the stamp.
set -euo pipefail

llama_version=0.3.36
recipe=1
python_packages=(cmake==4.4.4 ninja==1.13.2 scikit-build-core==1.1.2 gguf==0.19.0 'numpy>=1.26,<3')

say() { printf 'build-llama: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

for tool in g++ python3 flock sha256sum tar; do
  command -v "$tool" >/dev/null || die "$tool is missing; scripts/install.sh demo installs it."
done

folder=${HOSTKV_CACHE_DIR:-$HOME/.cache/hostkv}/llama-$llama_version
mkdir -p "$folder"
# The lock's descriptor is closed in the children (9>&-), so that none of them can keep it.
exec 9>"$folder/lock"
flock -n 9 || { say "another run is building; waiting for it"; flock 9; }

processor=$(grep -m 2 -E '^(model name|flags|Features)' /proc/cpuinfo | sha256sum | cut -c -16)
stamp="llama-cpp-python==$llama_version ${python_packages[*]} recipe=$recipe processor=$processor"
if [[ -f $folder/stamp && $(<"$folder/stamp") == "$stamp" ]] && "$folder/venv/bin/python" -c 'import gguf' 2>/dev/null 9>&-; then
  printf '%s\n' "$folder"
  exit 0
fi

# Runs one step with its output in a log; a failure shows the end of that log.
step() {
  local what=$1 log=$folder/$2.log
  shift 2
  say "$what"
  "$@" >"$log" 2>&1 9>&- || { tail -n 20 "$log" >&2; die "failed: $what (the whole log: $log)."; }
}

rm -rf "${folder:?}"/{stamp,venv,work,include,lib}
mkdir -p "$folder/work" "$folder/include" "$folder/lib"
step "a Python environment" venv python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" --disable-pip-version-check --no-input)
step "cmake, ninja, gguf from pip" pip "${pip[@]}" install --only-binary :all: "${python_packages[@]}"
# pip reads the package's metadata with scikit-build-core from above; only this one package may be a
# source package, or pip would go and compile cmake as well.
export PATH="$folder/venv/bin:$PATH"
step "the sources, llama-cpp-python $llama_version (77 MB)" download \
  "${pip[@]}" download --no-deps --no-build-isolation --no-binary llama-cpp-python -d "$folder/work" "llama-cpp-python==$llama_version"
tar -xzf "$folder/work"/llama_cpp_python-*.tar.gz -C "$folder/work" --strip-components=1
llama=$folder/work/vendor/llama.cpp
step "configuring" configure cmake -G Ninja -S "$llama" -B "$folder/work/build" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_BUILD_RPATH_USE_ORIGIN=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF \
  -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF
step "compiling (about 200 s of processor time)" compile cmake --build "$folder/work/build" --target llama

cp "$llama"/include/*.h "$llama"/ggml/include/*.h "$folder/include/"
cp -a "$folder/work/build/bin"/lib*.so* "$folder/lib/"
rm -rf "$folder/work"
printf '%s' "$stamp" >"$folder/stamp.new"
mv "$folder/stamp.new" "$folder/stamp"
say "done: $folder"
printf '%s\n' "$folder"
