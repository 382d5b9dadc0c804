//! The functions that the start and a first answer run, for `.build/first-use`, by which ./build.sh orders the program.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::{fs, process};

use crate::counts::{answered, find_tool};
use crate::run::Request;
use crate::shared::Failure;

/// Functions that run on processors with instructions that valgrind's processor lacks.
const OTHER_PROCESSORS: [&str; 20] = [
    "__memmove_avx512_unaligned_erms",
    "__memmove_evex_unaligned_erms",
    "__memset_avx512_unaligned_erms",
    "__memset_evex_unaligned_erms",
    "__memcmp_evex_movbe",
    "__memchr_evex",
    "__strlen_evex",
    "__strcmp_evex",
    "__strchr_evex",
    "__strchrnul_evex",
    "__strncmp_evex",
    "ring_core_0_17_14__sha256_block_data_order_hw",
    "ring_core_0_17_14__x25519_ge_scalarmult_base_adx",
    "ring_core_0_17_14__x25519_scalar_mult_adx",
    "ring_core_0_17_14__fiat_curve25519_adx_mul",
    "ring_core_0_17_14__fiat_curve25519_adx_square",
    "ring_core_0_17_14__aes_gcm_enc_update_vaes_avx2",
    "ring_core_0_17_14__aes_hw_set_encrypt_key_alt",
    "ring_core_0_17_14__gcm_init_vpclmulqdq_avx2",
    "ring_core_0_17_14__gcm_ghash_vpclmulqdq_avx2_1",
];

/// The symbols of the functions that `program` runs from its start until it has answered each of `requests`: those of
/// the first request first, each once, without the hashes at their ends.
///
/// # Errors
/// There is no valgrind, the program has no symbols, or it does not answer as it should.
pub(crate) fn of(
    program: &Path,
    requests: [(BTreeMap<String, OsString>, &Request); 2],
) -> Result<Vec<String>, Failure> {
    let valgrind = find_tool("valgrind").ok_or("there is no valgrind")?;
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind.{}", process::id()));
    let (mut names, mut known) = (Vec::new(), HashSet::new());
    for (variables, request) in requests {
        let mut command = Command::new(&valgrind);
        command.args(["--tool=callgrind", "--demangle=no"]);
        command.arg(format!("--callgrind-out-file={}", file.display())).arg(program);
        answered(command, &variables, request)?.terminate()?;
        let profile = fs::read_to_string(&file)?;
        fs::remove_file(&file)?;
        names.extend(functions(&profile).map(without_hash).filter(|name| known.insert(name.clone())));
    }
    if !names.iter().any(|name| name.starts_with("_ZN15kus_aws_backend")) {
        return Err("the program has no symbols; build it with CARGO_PROFILE_RELEASE_STRIP=none".into());
    }
    names.extend(OTHER_PROCESSORS.map(str::to_owned).into_iter().filter(|name| !known.contains(name)));
    Ok(names)
}

/// The functions in a profile, which names each at its first occurrence: `fn=(7) name`, or `cfn=` for one that is
/// called ("Callgrind Format Specification" in Valgrind's manual).
fn functions(profile: &str) -> impl Iterator<Item = &str> {
    let named = profile.lines().filter_map(|line| {
        let function = line.strip_prefix("fn=(").or_else(|| line.strip_prefix("cfn=("))?;
        let (_, name) = function.split_once(") ")?;
        // A number at the end distinguishes the calls of a recursion.
        Some(name.split_once('\'').map_or(name, |(name, _)| name))
    });
    named.filter(|name| !name.starts_with(['(', '?']) && !name.starts_with("0x"))
}

/// A mangled name without the number that LLVM may add, and without `17h` and the hash in sixteen digits before its
/// last `E`.
fn without_hash(name: &str) -> String {
    let name = match name.rsplit_once('.') {
        Some((name, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            name.strip_suffix(".llvm").unwrap_or(name)
        }
        _ => name,
    };
    match name.strip_suffix('E').and_then(|name| name.rsplit_once("17h")) {
        Some((name, hash)) if hash.len() == 16 => format!("{name}E"),
        _ => name.to_owned(),
    }
}
