# shellcheck shell=bash
# The steps that read the code and do not run it.

# The program that build.sh packs the zip with.
readonly PACKER=.build/pack/Cargo.toml
# If a new feature needs more packages, raise this on purpose: each makes the binary larger, and a cold start loads all of it.
readonly MOST_PACKAGES=135

step_scripts() {
  # It follows .ci/run into the files that it reads.
  "$PYTHON_TOOLS/shellcheck/bin/shellcheck" --external-sources --check-sourced \
    build.sh .build/ordering-cc .ci/run .ci/instrument .aws/deploy
}

step_template() {
  "$PYTHON_TOOLS/cfn-lint/bin/cfn-lint" --include-checks I --non-zero-exit-code informational -t .aws/template.yaml
}

step_format() {
  cargo fmt --check
  cargo fmt --check --manifest-path "$PACKER"
}

step_lints() {
  cargo clippy --all-targets --locked -- -D warnings
  # Some code of the library is there for the fuzz targets only.
  cargo clippy --lib --locked -- -D warnings --cfg fuzzing
  cargo clippy --manifest-path "$PACKER" --target-dir target/pack --locked -- -D warnings
}

# There is one TLS provider in the binary, and one HTTP client beside the runtime's own connection to Lambda.
step_dependencies() {
  local tree unwanted crate count
  tree=$(cargo tree --locked --package "$FUNCTION" --edges normal --prefix none --format '{p}' | sed 's/ (.*//' | sort -u)
  unwanted=$(grep -E '^(aws-config|aws-lc-(rs|sys)|aws-smithy-http-client|hyper-rustls|hyper-tls|native-tls|openssl(-sys)?|reqwest|rustls-native-certs|tokio-rustls) ' \
    <<<"$tree") || true
  [ -z "$unwanted" ] || fail "the binary must not contain these packages: $unwanted"
  for crate in rustls ring ureq; do
    count=$(grep -c "^$crate " <<<"$tree") || true
    expect "the number of versions of $crate in the binary" "$count" 1
  done
  count=$(wc -l <<<"$tree")
  printf '%s packages\n' "$count"
  [ "$count" -le "$MOST_PACKAGES" ] || fail "the binary may contain $MOST_PACKAGES packages, and contains $count"
}

# The database of advisories is in no package registry, so the workflows on GitHub check those.
step_licences() {
  "$CARGO_TOOLS/bin/cargo-deny" check \
    -D unmatched-skip -D unnecessary-skip -D license-exception-not-encountered licenses bans sources
  # The packer has only some of the allowed licences.
  "$CARGO_TOOLS/bin/cargo-deny" --manifest-path "$PACKER" --config .cargo/deny.toml check \
    -A license-not-encountered -A license-exception-not-encountered licenses bans sources
}

step_docs() {
  RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items --locked
}
