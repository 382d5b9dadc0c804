#!/usr/bin/env bash
# Written for bash 3.2 and POSIX tools, so that it also runs on macOS and in Git Bash.
set -euo pipefail

readonly PACKAGE=kus-aws-backend
# What the benchmark `cold_start` measures the function against.
readonly FLOOR=floor
# Amazon Linux 2023, the system below provided.al2023, has glibc 2.34.
readonly GLIBC_MINOR=34

usage() {
  cat <<'END'
Usage: ./build.sh [--x86_64 | --arm64] [--dynamic | --floor]

Makes lambda.zip next to this script, ready to upload. It contains the release build as
`bootstrap` for AWS Lambda's runtime Amazon Linux 2023 (provided.al2023).

  --x86_64    for Lambda's x86_64 architecture (default)
  --arm64     for Lambda's arm64 architecture (Graviton)
  --dynamic   links the program to Lambda's C library, even if it could be linked statically
  --floor     builds target/floor.zip instead, for this machine, in the same way: the program in
              tests/bench/floor, which the benchmark cold_start needs
  -h, --help  shows this text

On Linux, for the machine's own architecture, plain cargo builds a statically linked program. It
starts fastest and depends on no version of the C library. This needs a static C library, which
comes with gcc on Debian and Ubuntu, and with dnf install glibc-static on Fedora and Amazon Linux.
In all other cases cargo-lambda builds the program, if cargo-lambda and zig are installed. They
work on any system and for either architecture. Without them plain cargo builds it.
The same source, toolchain and builder give the same bytes in any directory.
END
}

die() {
  printf 'build.sh: %s\n' "$@" >&2
  exit 1
}

has() {
  command -v "$1" >/dev/null 2>&1
}

how_to_get_cargo_lambda() {
  cat <<'END'
Get cargo-lambda and zig with one of
  brew install cargo-lambda/cargo-lambda/cargo-lambda    (macOS)
  pip3 install cargo-lambda ziglang                      (Linux, macOS, Windows; a virtual environment is fine)
END
}

# The directory of this script, from whatever directory and through whatever symbolic links it is called. macOS has
# `readlink -f` only since version 12.3.
script_directory() {
  local path=${BASH_SOURCE[0]} directory
  while [ -L "$path" ]; do
    directory=$(cd -P "$(dirname "$path")" && pwd)
    path=$(readlink "$path")
    case $path in
      /*) ;;
      *) path=$directory/$path ;;
    esac
  done
  cd -P "$(dirname "$path")" && pwd
}

parse_arguments() {
  lambda_architecture=x86_64
  linkage=static
  program=$PACKAGE
  while [ $# -gt 0 ]; do
    case $1 in
      --x86_64) lambda_architecture=x86_64 ;;
      --arm64) lambda_architecture=arm64 ;;
      --dynamic) linkage=dynamic ;;
      --floor) program=$FLOOR ;;
      -h | --help)
        usage
        exit 0
        ;;
      *)
        printf 'build.sh: unknown argument: %s\n\n' "$1" >&2
        usage >&2
        exit 2
        ;;
    esac
    shift
  done
  case $lambda_architecture in
    x86_64) target=x86_64-unknown-linux-gnu ;;
    arm64) target=aarch64-unknown-linux-gnu ;;
  esac
}

require_rust() {
  if ! has cargo || ! has rustc; then
    die "cargo or rustc was not found. Get Rust from https://rustup.rs"
  fi
  host=$(rustc -vV | sed -n 's/^host: //p')
}

# Whether the C compiler, which is also the linker, finds a static C library.
links_statically() {
  printf 'int main(void) { return 0; }\n' | cc -static -x c -o /dev/null - 2>/dev/null
}

# Whether the C library, which relocates the program when it starts, can read DT_RELR. glibc can since version 2.36.
packs_relocations() {
  local version
  version=$(getconf GNU_LIBC_VERSION 2>/dev/null) && [ "${version##*.}" -ge 36 ]
}

# Sets `builder`, changes `linkage` to what the builder can do, and sets `note` if another build would be better.
choose_builder() {
  local missing
  note=
  if [ "$linkage" = static ]; then
    if [ "$host" = "$target" ] && links_statically; then
      builder=cargo
      return
    fi
    linkage=dynamic
    if [ "$host" = "$target" ]; then
      note=" (there is no static C library here; with one the program would start faster: see ./build.sh --help)"
    fi
  fi
  if [ "$program" = "$FLOOR" ]; then
    [ "$host" = "$target" ] || die "--floor is built for this machine's own architecture ($host)"
    builder=cargo
    return
  fi
  if ! cargo lambda --version >/dev/null 2>&1; then
    missing=cargo-lambda
  elif ! cargo lambda system 2>/dev/null | grep -qE '^  (command|path|version): '; then
    # This is checked here because `cargo lambda build` would install a missing zig by itself.
    missing=zig
  else
    builder=cargo-lambda
    return
  fi
  if [ "$host" = "$target" ]; then
    builder=cargo
    return
  fi
  die "a build for Lambda's $lambda_architecture on this machine ($host) needs cargo-lambda and zig; $missing was not found." \
    "$(how_to_get_cargo_lambda)"
}

require_target() {
  local libraries
  libraries=$(rustc --print target-libdir --target "$target")
  [ -d "$libraries" ] || die "the Rust target $target is not installed. Get it with: rustup target add $target"
}

# Sets `project` and `target_directory`.
read_metadata() {
  local metadata
  metadata=$(cargo metadata --no-deps --format-version 1)
  project=$(metadata_path workspace_root)
  target_directory=$(metadata_path target_directory)
}

# A path from `cargo metadata`, without JSON's escapes.
metadata_path() {
  printf '%s\n' "$metadata" | sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' | sed 's/\\\\/\\/g'
}

# Sets `packer`. It runs on this machine, so it is built without the flags that are meant for Lambda.
build_packer() {
  env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS \
    cargo build --quiet --release --locked --manifest-path .build/pack/Cargo.toml \
    --target "$host" --target-dir "$target_directory/pack"
  packer=$target_directory/pack/$host/release/pack
}

# Sets `flags`. They keep this machine's paths out of the binary. If rustup's rust-src is installed, the standard
# library's sources get the name that they have without it.
collect_compiler_flags() {
  local commit sysroot
  commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
  sysroot=$(rustc --print sysroot)
  flags=(
    "--remap-path-prefix=$project=/project"
    "--remap-path-prefix=$target_directory=/project/target"
    "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    "--remap-path-prefix=$sysroot/lib/rustlib/src/rust=/rustc/$commit"
  )
  if [ "$linkage" = static ]; then
    # Frame pointers take less space than they save in the tables for unwinding.
    flags+=(-Ctarget-feature=+crt-static -Cforce-frame-pointers=yes)
    # The crate getrandom looks up the C library's function by name. It would not find it in a static program and would
    # read /dev/urandom instead.
    flags+=('--cfg=getrandom_backend="linux_getrandom"')
    # The program resolves host names itself. Without the C library's resolver it is 125 KB smaller and needs no
    # libraries of the host. Any other code that tries to resolve a name gets an error.
    flags+=("-Clink-arg=-Wl,--defsym=getaddrinfo=getpagesize,--defsym=freeaddrinfo=getpagesize")
    if packs_relocations; then
      flags+=("-Clink-arg=-Wl,-z,pack-relative-relocs")
    fi
  fi
}

# Escapes a text for a quoted string in TOML.
toml_escaped() {
  local text=${1//\\/\\\\}
  printf '%s' "${text//\"/\\\"}"
}

# Adds `flags` to the flags that are already set. Cargo uses only the first that is set of CARGO_ENCODED_RUSTFLAGS,
# RUSTFLAGS, target.*.rustflags and build.rustflags. RUSTFLAGS cannot hold a path with a space. If a configuration sets
# target.*.rustflags, Cargo uses those, and this machine's paths stay in the binary.
pass_compiler_flags() {
  local flag separator=$'\x1f' toml=
  cargo_arguments=()
  if [ -z "${CARGO_ENCODED_RUSTFLAGS+set}" ] && [ -z "${RUSTFLAGS+set}" ]; then
    for flag in "${flags[@]}"; do
      toml="$toml\"$(toml_escaped "$flag")\","
    done
    cargo_arguments=(--config "build.rustflags=[$toml]")
    return
  fi
  if [ -z "${CARGO_ENCODED_RUSTFLAGS+set}" ]; then
    # shellcheck disable=SC2086 # RUSTFLAGS is a list separated by spaces.
    set -f && set -- $RUSTFLAGS && set +f
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$separator && printf '%s' "$*")
  fi
  for flag in "${flags[@]}"; do
    CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS:+$CARGO_ENCODED_RUSTFLAGS$separator}$flag
  done
  export CARGO_ENCODED_RUSTFLAGS
}

# Leaves the program as `bootstrap` in `stage`.
compile() {
  local chosen
  local kind=--bin directory=release
  if [ "$program" = "$FLOOR" ]; then
    kind=--example directory=release/examples
  fi
  stage=$target_directory/$target/lambda
  rm -rf "$stage"
  mkdir -p "$stage"
  echo "Building for Lambda's $lambda_architecture with $builder, $linkage linking$note"
  # --target keeps the compiler flags away from build scripts, even if the host is the target. --package leaves out the
  # local stack, which would turn on features in the function's dependencies.
  set -- --release --locked --package "$PACKAGE" "$kind" "$program" ${cargo_arguments[@]+"${cargo_arguments[@]}"}
  case $builder in
    cargo)
      # If a linker has been chosen, it is kept.
      chosen=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_LINKER
      if [ "$linkage" = static ] && [ -z "${!chosen:-}" ]; then
        # In a clone the file is executable. In an unpacked zip it may not be.
        [ -x .build/ordering-cc ] || chmod +x .build/ordering-cc
        set -- "$@" --config "target.$target.linker=\"$(toml_escaped "$project/.build/ordering-cc")\""
      fi
      cargo build "$@" --target "$target"
      cp "$target_directory/$target/$directory/$program" "$stage/bootstrap"
      ;;
    cargo-lambda)
      # --disable-optimizations: only Cargo.toml's release profile counts. cargo-lambda would add panic=abort, and a
      # panic would end the process instead of being answered with a 500. --skip-target-check: require_target has
      # checked the toolchain that is really in use. cargo-lambda would check another one and install what is missing
      # there.
      cargo lambda build "$@" --target "$target.2.$GLIBC_MINOR" --compiler cargo-zigbuild \
        --disable-optimizations --skip-target-check --lambda-dir "$stage" --flatten "$PACKAGE"
      ;;
  esac
}

# Rejects a program that Lambda would reject only when the function starts.
check_binary() {
  local binary=$stage/bootstrap expected actual count versions version
  # cargo-lambda only warns if it finds no program.
  [ -f "$binary" ] || die "the build produced no program"

  # The ELF header: magic, 64 bits, little endian; e_machine is at offset 18.
  case $lambda_architecture in
    x86_64) expected='7f 45 4c 46 02 01 3e 00' ;;
    arm64) expected='7f 45 4c 46 02 01 b7 00' ;;
  esac
  actual=$(od -An -v -tx1 -N20 "$binary" | tr -s ' \n' '  ' | cut -d ' ' -f 2-7,20-21)
  [ "$actual" = "$expected" ] || die "the build produced no Linux program for $lambda_architecture (its header: $actual)"

  glibc=
  if [ "$linkage" = static ]; then
    # The program headers are at offset 64, 56 bytes each; e_phnum is at offset 56. PT_INTERP, type 3, asks for a loader.
    count=$(od -An -v -tu2 -j56 -N2 "$binary")
    if LC_ALL=C od -An -v -tx4 -w56 -j64 -N$((56 * count)) "$binary" | grep -qE '^ *00000003 '; then
      die "the build produced a program that is not statically linked; ./build.sh --dynamic makes one that Lambda can start"
    fi
    return
  fi

  # GLIBC_ABI_DT_RELR came with glibc 2.36.
  versions=$(LC_ALL=C grep -aoE 'GLIBC_(2\.[0-9]+|ABI_DT_RELR)' "$binary" | sort -u) || true
  for version in $versions; do
    case $version in
      GLIBC_ABI_DT_RELR) version=36 ;;
      *) version=${version#GLIBC_2.} ;;
    esac
    if [ "$version" -gt "${glibc:-0}" ]; then
      glibc=$version
    fi
  done
  if [ "${glibc:-0}" -gt "$GLIBC_MINOR" ]; then
    die "the binary needs glibc 2.$glibc, but Lambda's provided.al2023 has only 2.$GLIBC_MINOR, so it would not start there." \
      "cargo-lambda builds for the older version, whatever version this machine has." \
      "$(how_to_get_cargo_lambda)"
  fi
}

pack() {
  "$packer" "$stage/bootstrap" "$stage/lambda.zip"
  mv -f "$stage/lambda.zip" "$zip_file"
  rm -rf "$stage"
}

report() {
  local bytes libc='statically linked'
  bytes=$(($(wc -c <"$zip_file")))
  if [ -n "$glibc" ]; then
    libc="needs glibc 2.$glibc"
  fi
  cat <<END

$zip_file
$(((bytes + 1023) / 1024)) KiB ($bytes bytes) for $lambda_architecture, $libc
END
  if [ "$program" = "$FLOOR" ]; then
    return
  fi
  cat <<END

Next, in the Lambda console:
  a new function     runtime "Amazon Linux 2023" (provided.al2023), architecture $lambda_architecture
  upload             Code > Upload from > .zip file > lambda.zip
  handler            anything: a custom runtime does not use it
END
}

main() {
  parse_arguments "$@"
  cd "$(script_directory)"
  zip_file=$PWD/lambda.zip
  # If anything fails from here on, no old archive is left that looks new.
  [ "$program" = "$FLOOR" ] || rm -f "$zip_file"

  require_rust
  choose_builder
  require_target
  read_metadata
  build_packer
  collect_compiler_flags
  if [ "$program" = "$FLOOR" ]; then
    zip_file=$target_directory/floor.zip
  fi
  pass_compiler_flags
  compile
  check_binary
  pack
  report
}

main "$@"
