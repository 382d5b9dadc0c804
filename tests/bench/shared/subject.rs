//! The subject of a measurement: a program, as it is or in the zip that is uploaded.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use zip::ZipArchive;

use super::Failure;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// What Lambda starts.
const ENTRY: &str = "bootstrap";

/// The name of the program in `tests/bench/floor`.
pub(crate) const FLOOR: &str = "floor";

/// A program to measure.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Its name in the table.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    /// In bytes.
    pub(crate) program_size: u64,
    /// In bytes, if it came in a zip.
    pub(crate) zip_size: Option<u64>,
    /// The path at which it was unpacked.
    unpacked: Option<Directory>,
}

impl Subject {
    /// Whether the others are compared with it.
    pub(crate) fn is_floor(&self) -> bool {
        self.name == FLOOR
    }
}

/// A directory that is removed when dropped.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // Anything that stays is in Cargo's directory for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `[NAME=]PATH` of `--program`.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: String,
    path: PathBuf,
}

impl Source {
    pub(crate) fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), path: path.into() }
    }

    /// Reads `[NAME=]PATH`; without a name it is the file's.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (name, Path::new(path)),
            None => (Path::new(text).file_name().and_then(OsStr::to_str).unwrap_or_default(), Path::new(text)),
        };
        if name.is_empty() {
            return Err("expected a path or NAME=PATH".to_owned());
        }
        if !path.is_file() {
            return Err(format!("there is no file {}", path.display()));
        }
        Ok(Self::new(name, path))
    }

    /// The subject; a program in a zip is unpacked, for which `number` is one of its own.
    ///
    /// # Errors
    /// The file cannot be read, or the zip has no `bootstrap`.
    pub(crate) fn open(self, number: usize) -> Result<Subject, Failure> {
        let Self { name, path } = self;
        let is_zip = path.extension() == Some(OsStr::new("zip"));
        let zip_size = if is_zip { Some(fs::metadata(&path)?.len()) } else { None };
        let unpacked = if is_zip { Some(unpack(&path, number)?) } else { None };
        let program = unpacked.as_ref().map_or_else(|| path.canonicalize(), |Directory(path)| Ok(path.join(ENTRY)))?;
        Ok(Subject { name, program_size: fs::metadata(&program)?.len(), program, zip_size, unpacked })
    }
}

/// The zip that `./build.sh` makes, which reports it on standard output.
///
/// # Errors
/// It makes none.
pub(crate) fn build() -> Result<Source, Failure> {
    build_with(&[])?;
    Ok(Source::new("lambda.zip", Path::new(PROJECT).join("lambda.zip")))
}

/// The zip of the program in `tests/bench/floor`, built as the function is.
///
/// # Errors
/// None can be made.
pub(crate) fn build_floor() -> Result<Source, Failure> {
    let architecture = if cfg!(target_arch = "aarch64") { "--arm64" } else { "--x86_64" };
    build_with(&["--floor", architecture])?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("there is no directory of Cargo's")?;
    Ok(Source::new(FLOOR, target.join("floor.zip")))
}

fn build_with(arguments: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new("./build.sh");
    // Cargo's variables for this package look like a change to build scripts that watch them, as ring's does.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    let status = command.args(arguments).current_dir(PROJECT).status()?;
    if status.success() { Ok(()) } else { Err(format!("./build.sh failed: {status}").into()) }
}

/// Unpacks the program of `zip`, for this process alone, because another one may be measuring too.
fn unpack(zip: &Path, number: usize) -> Result<Directory, Failure> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {ENTRY} cannot be unpacked: {error}", zip.display());
    let mut archive = ZipArchive::new(File::open(zip)?).map_err(|error| failed(&error))?;
    let mut entry = archive.by_name(ENTRY).map_err(|error| failed(&error))?;
    let name = format!("{}-{}-{number}", env!("CARGO_CRATE_NAME"), process::id());
    let directory = Directory(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
    fs::create_dir_all(&directory.0)?;
    let program = directory.0.join(ENTRY);
    io::copy(&mut entry, &mut File::create(&program)?).map_err(|error| failed(&error))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}
