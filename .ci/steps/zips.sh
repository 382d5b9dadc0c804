# shellcheck shell=bash
# The steps that build a zip with build.sh, or need one: static.zip, with a program that is linked statically, and dynamic.zip.

# Zips stay here for later steps and later runs.
readonly ZIPS=$PWD/target/ci
# A cold start loads the whole zip. If a new feature needs more, raise these on purpose.
readonly MOST_STATIC_BYTES=2340000
readonly MOST_DYNAMIC_BYTES=2010000
readonly DYNAMIC_LIBRARIES='libc.so.6 libm.so.6'
# A static program contains the C library, and each version of it has another size and does other work. The limits of the
# static zip, and those of .ci/check-counts, hold for this one.
readonly MEASURED_LIBC='glibc 2.36'
readonly EMPTY_ROOT_TEST=standalone::

step_build_failures() {
  local status=0
  ./build.sh --help >/dev/null
  ./build.sh --no-such-option 2>/dev/null || status=$?
  expect "the status of build.sh after an unknown option" "$status" 2
  touch lambda.zip
  if RUSTFLAGS=--no-such-flag ./build.sh >/dev/null 2>&1; then
    fail "build.sh succeeds although the compiler fails"
  fi
  [ ! -e lambda.zip ] || fail "the lambda.zip of an earlier build is still there after a build that failed"
}

step_build() {
  local copy="$scratch/another directory"
  build_zip static
  .ci/check-zip lambda.zip
  if is_measured_libc; then
    check_size lambda.zip "$MOST_STATIC_BYTES"
  fi
  unpack lambda.zip
  check_libraries ''
  check_named_runtime_api

  mkdir "$copy"
  git ls-files -z --cached --others --exclude-standard | tar -cf - --null --files-from=- | tar -xf - -C "$copy"
  # GitHub's zip of the repository loses these bits.
  chmod -x "$copy/build.sh" "$copy/.build/ordering-cc"
  ln -s "$copy/build.sh" "$scratch/build"
  (
    cd "$scratch"
    unset CARGO_TARGET_DIR
    without_cargo_lambda bash ./build
  )
  cmp lambda.zip "$copy/lambda.zip" || fail "build.sh makes another zip of the same sources in another directory"
}

step_build_dynamic() {
  build_zip dynamic
  .ci/check-zip lambda.zip
  check_size lambda.zip "$MOST_DYNAMIC_BYTES"
  unpack lambda.zip
  check_libraries "$DYNAMIC_LIBRARIES"
  touch src/main.rs
  with_cargo_lambda ./build.sh --dynamic
  cmp lambda.zip "$ZIPS/dynamic.zip" || fail "build.sh makes another zip of the same sources the second time"
}

# The program is alone in a root directory, without libraries and without the files that say how to look up a name.
# The test needs the port of name servers: it gets a network of its own, or runs as root.
step_empty_root() {
  local network=()
  provide_zip static
  unpack "$ZIPS/static.zip"
  if unshare --map-root-user --net true 2>/dev/null; then
    network=(unshare --map-root-user --net .ci/with-loopback)
  elif [ "$(id -u)" -ne 0 ]; then
    fail "this user may not call chroot: be root, or allow unshare --map-root-user --net"
  fi
  # There is no way to download packages from inside the network.
  cargo test --locked --test suite --no-run
  BOOTSTRAP=$scratch/bootstrap "${network[@]}" \
    cargo test --offline --locked --test suite -- --ignored "$EMPTY_ROOT_TEST" | tee "$scratch/log"
  grep -q '^test result: ok. 1 passed' "$scratch/log" || fail "there is no test $EMPTY_ROOT_TEST"
}

# The profile is that of the tests, so nearly all packages are built already.
step_benchmarks() {
  local bench
  provide_zip static
  provide_zip dynamic
  cargo bench --locked --profile dev --bench in_process -- --test
  for bench in cold_start streaming; do
    cargo bench --locked --profile dev --bench "$bench" -- --test \
      --program "static=$ZIPS/static.zip" --program "dynamic=$ZIPS/dynamic.zip"
  done
}

# These counts hardly vary: they depend on the processor, the C library in the program, and the order of the threads.
step_counts() {
  provide_zip static
  cargo bench --locked --profile dev --bench cold_start -- --counts --program "static=$ZIPS/static.zip" | tee "$scratch/counts"
  if is_measured_libc; then
    .ci/check-counts "$scratch/counts"
  fi
}

# Builds the zip $1 unless target/ci has it already, built from the present sources.
provide_zip() {
  local inputs
  inputs=$(zip_inputs)
  if [ "$inputs" != "$(cat "$ZIPS/$1.inputs" 2>/dev/null)" ]; then
    build_zip "$1"
  fi
}

# Builds lambda.zip and keeps a copy as target/ci/$1.zip.
build_zip() {
  local inputs
  mkdir -p "$ZIPS"
  rm -f "$ZIPS/$1.inputs"
  inputs=$(zip_inputs)
  case $1 in
    static) without_cargo_lambda ./build.sh ;;
    dynamic) with_cargo_lambda ./build.sh --dynamic ;;
  esac
  cp lambda.zip "$ZIPS/$1.zip"
  printf '%s\n' "$inputs" >"$ZIPS/$1.inputs"
}

# Prints what the content of a zip depends on: the sources, the flags and the compilers.
zip_inputs() {
  find src .build .cargo build.sh Cargo.toml Cargo.lock -type f -exec sha256sum {} + | LC_ALL=C sort -k 2
  env | LC_ALL=C sort | grep -E '^(RUSTFLAGS|CARGO_(ENCODED|BUILD|PROFILE|TARGET)_[A-Z0-9_]*)=' || true
  printf '%s\n' "${CARGO_LAMBDA[@]}"
  rustc -vV
  cc --version
  getconf GNU_LIBC_VERSION
}

# Leaves the program of a zip as $scratch/bootstrap.
unpack() {
  python3 -m zipfile -e "$1" "$scratch"
  chmod +x "$scratch/bootstrap"
}

is_measured_libc() {
  [ "$(getconf GNU_LIBC_VERSION)" = "$MEASURED_LIBC" ]
}

check_size() {
  local bytes
  bytes=$(wc -c <"$1")
  printf '%s: %s bytes\n' "$1" "$bytes"
  [ "$bytes" -le "$2" ] || fail "$1 may have $2 bytes, and has $bytes"
}

# The unpacked program needs these dynamic libraries, sorted by name, and no others.
check_libraries() {
  local needed
  needed=$(LC_ALL=C readelf -d "$scratch/bootstrap" | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p' | sort | paste -s -d ' ' -)
  printf 'dynamic libraries: %s\n' "${needed:-none}"
  expect "the dynamic libraries that the program needs" "$needed" "$1"
}

# The unpacked program is static: it does not look up the name of its Runtime API, and says so.
check_named_runtime_api() {
  local status=0
  AWS_LAMBDA_RUNTIME_API=localhost:9001 "$scratch/bootstrap" 2>"$scratch/log" || status=$?
  if [ "$status" -ne 1 ] || ! grep -q 'needs an IP address' "$scratch/log"; then
    cat "$scratch/log"
    fail "the program should refuse a Runtime API with a name, and ended with status $status"
  fi
}
