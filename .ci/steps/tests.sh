# shellcheck shell=bash
# The steps that run the code as it is built for tests.

step_tests() {
  cargo test
}

step_coverage() {
  local directory=target/coverage
  # The tests start the local stack, and look for it in their own target directory.
  build_local_stack
  mkdir -p "$(dirname "$directory/$LOCAL_EXAMPLE")"
  cp "$local_stack" "$directory/$LOCAL_EXAMPLE"
  CARGO_PROFILE_DEV_DEBUG=0 RUSTC_WRAPPER=$PWD/.ci/instrument \
    "$CARGO_TOOLS/bin/cargo-tarpaulin" tarpaulin --config .ci/tarpaulin.toml
}

step_openapi() {
  local tools=$PYTHON_TOOLS/schemathesis/bin config=$PWD/.ci/schemathesis.toml hash url
  "$tools/openapi-spec-validator" src/endpoints/docs/openapi.json
  build_local_stack
  # Only a caller who is known by a token can list conversations.
  hash=$(printf a-token | sha256sum | cut -d ' ' -f 1)
  start "$scratch/stack.log" 'Listening on' isolated ACCESS_TOKENS="tester:$hash" "$local_stack" --port 0
  url=$(sed -n 's/^Listening on \([^ ]*\) .*/\1/p' "$scratch/stack.log")
  (
    # schemathesis leaves a record of its requests in the directory in which it runs.
    cd "$scratch"
    "$tools/schemathesis" --config-file "$config" run "$url/openapi.json" --no-color --checks all \
      -H 'Authorization: Bearer a-token'
  )
  end_background
}

step_browser() {
  build_local_stack
  AXE_CORE=$AXE/node_modules/axe-core/axe.min.js LOCAL_STACK=$local_stack run_python_tests tests/browser
}

# The tests import packages from their own directory, so both are copied to target/, and the working tree stays clean.
step_ai_sdk() {
  local copy=$PWD/target/ai_sdk
  mkdir -p "$copy"
  cp tests/ai_sdk/*.* "$copy"
  npm ci --prefix "$copy" --ignore-scripts --no-audit --no-fund --loglevel=error
  build_local_stack
  LOCAL_STACK=$local_stack node --test --test-reporter=spec "$copy/stream.test.mjs"
  LOCAL_STACK=$local_stack PYTHONPATH=tests/browser run_python_tests "$copy"
}

run_python_tests() {
  "$PYTHON_TOOLS/selenium/bin/python" -B -m unittest discover -s "$1" -p '*_test.py' -v
}
