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

Makes lambda.zip, ready to upload, beside this script: the release build as `bootstrap`
for AWS Lambda's runtime Amazon Linux 2023 (provided.al2023).

  --x86_64    for Lambda's x86_64 architecture (default)
  --arm64     for Lambda's arm64 architecture (Graviton)
  --dynamic   a program that uses Lambda's own C library, also where it could be linked statically
  --floor     builds the program in tests/bench/floor instead, as target/floor.zip, for the benchmark
              cold_start, in the same way and for this machine
  -h, --help  this text

On Linux, for the machine's own architecture, builds with plain cargo a program that holds all that
it needs: it starts fastest, and no version of the C library matters. That takes a static C library
(Debian and Ubuntu have it with gcc; Fedora and Amazon Linux: dnf install glibc-static).
Otherwise builds with cargo-lambda where cargo-lambda and zig are installed: on any system, for
either architecture; and without them with plain cargo.
The same source, toolchain and builder give the same bytes, in whatever directory.
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

# The directory of this script, wherever it is called from and through whatever symbolic links.
# macOS got `readlink -f` only in version 12.3.
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

# Whether the C library, which relocates the program when it starts, reads DT_RELR: since glibc 2.36.
packs_relocations() {
  local version
  version=$(getconf GNU_LIBC_VERSION 2>/dev/null) && [ "${version##*.}" -ge 36 ]
}

# Sets `builder`, `linkage` to what it can do, and `note` to why it is not the best one.
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
      note=" (there is no static C library here, with which the program would start faster: ./build.sh --help)"
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
    # Asked here because `cargo lambda build` would install a missing zig by itself.
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

# `cargo metadata`'s value for a path, without the escapes of JSON.
metadata_path() {
  printf '%s\n' "$metadata" | sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' | sed 's/\\\\/\\/g'
}

# Sets `packer`. It runs on this machine, so it is built without flags that are meant for Lambda's.
build_packer() {
  env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS \
    cargo build --quiet --release --locked --manifest-path .build/pack/Cargo.toml \
    --target "$host" --target-dir "$target_directory/pack"
  packer=$target_directory/pack/$host/release/pack
}

# Sets `flags`. No path of this machine gets into the binary; the sysroot's sources, where rustup's
# rust-src has put them, get the name that they have without it.
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
    # Frame pointers make the tables for unwinding smaller by more than they cost.
    flags+=(-Ctarget-feature=+crt-static -Cforce-frame-pointers=yes)
    # The crate getrandom looks for the C library's function by its name, does not find it in a static
    # program, and would read /dev/urandom instead.
    flags+=('--cfg=getrandom_backend="linux_getrandom"')
    # The program looks names up itself. Without the C library's resolver it is 125 KB smaller and needs no libraries of the
    # host. Whatever else would look up a name gets an error.
    flags+=("-Clink-arg=-Wl,--defsym=getaddrinfo=getpagesize,--defsym=freeaddrinfo=getpagesize")
    if packs_relocations; then
      flags+=("-Clink-arg=-Wl,-z,pack-relative-relocs")
    fi
  fi
}

# A text for between the quotation marks of TOML.
toml_escaped() {
  local text=${1//\\/\\\\}
  printf '%s' "${text//\"/\\\"}"
}

# Adds `flags` to the flags that are set already. Cargo takes the first of CARGO_ENCODED_RUSTFLAGS,
# RUSTFLAGS, target.*.rustflags and build.rustflags, and only the first; RUSTFLAGS cannot carry a path with a space.
# A configuration with target.*.rustflags therefore keeps them and leaves this machine's paths in the binary.
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
  # --target keeps the compiler flags away from build scripts, whatever the host is. --package leaves out the local stack, whose
  # dependencies would turn on features of the function's.
  set -- --release --locked --package "$PACKAGE" "$kind" "$program" ${cargo_arguments[@]+"${cargo_arguments[@]}"}
  case $builder in
    cargo)
      # Whoever has chosen a linker keeps it.
      chosen=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_LINKER
      if [ "$linkage" = static ] && [ -z "${!chosen:-}" ]; then
        # A clone has the executable bit, an unpacked zip may not.
        [ -x .build/ordering-cc ] || chmod +x .build/ordering-cc
        set -- "$@" --config "target.$target.linker=\"$(toml_escaped "$project/.build/ordering-cc")\""
      fi
      cargo build "$@" --target "$target"
      cp "$target_directory/$target/$directory/$program" "$stage/bootstrap"
      ;;
    cargo-lambda)
      # --disable-optimizations: Cargo.toml's release profile is the whole truth. cargo-lambda would add
      # panic=abort, and then a panic ends the process instead of being answered.
      # --skip-target-check: require_target has looked, in the toolchain that is really in use; cargo-lambda
      # would look in another and install what it misses there.
      cargo lambda build "$@" --target "$target.2.$GLIBC_MINOR" --compiler cargo-zigbuild \
        --disable-optimizations --skip-target-check --lambda-dir "$stage" --flatten "$PACKAGE"
      ;;
  esac
}

# Refuses what Lambda would refuse only when the function starts.
check_binary() {
  local binary=$stage/bootstrap expected actual count versions version
  # cargo-lambda only warns where it finds no program.
  [ -f "$binary" ] || die "the build has left no program"

  # The ELF header: magic, 64 bits, little endian; e_machine is at offset 18.
  case $lambda_architecture in
    x86_64) expected='7f 45 4c 46 02 01 3e 00' ;;
    arm64) expected='7f 45 4c 46 02 01 b7 00' ;;
  esac
  actual=$(od -An -v -tx1 -N20 "$binary" | tr -s ' \n' '  ' | cut -d ' ' -f 2-7,20-21)
  [ "$actual" = "$expected" ] || die "the build has left no Linux program for $lambda_architecture (its header: $actual)"

  glibc=
  if [ "$linkage" = static ]; then
    # The program headers are at offset 64, 56 bytes each; e_phnum is at offset 56. PT_INTERP, type 3, asks for a loader.
    count=$(od -An -v -tu2 -j56 -N2 "$binary")
    if LC_ALL=C od -An -v -tx4 -w56 -j64 -N$((56 * count)) "$binary" | grep -qE '^ *00000003 '; then
      die "the build has left a program that is not statically linked; ./build.sh --dynamic makes one that Lambda can start"
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
    die "the binary needs glibc 2.$glibc, and Lambda's provided.al2023 has 2.$GLIBC_MINOR: it would not start there." \
      "cargo-lambda builds for the older one, whatever this machine has." \
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
  # Whatever fails from here on leaves no old archive that looks fresh.
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
