//! How much the long tests do: a part of it by default, all of it if `FULL` is set.

use std::env;

/// `all`, or by default `part`.
pub(crate) fn scale<T>(part: T, all: T) -> T {
    if env::var_os("FULL").is_some_and(|value| !value.is_empty()) { all } else { part }
}

/// A random number generator with the seed `SEED`, or by default with a random one, which is printed.
///
/// # Panics
/// If `SEED` is not a number.
pub(crate) fn random() -> fastrand::Rng {
    let seed = env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
