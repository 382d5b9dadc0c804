//! Packs a program for Lambda: `pack PROGRAM ZIP` makes a zip whose only entry is `bootstrap`. The same program gives
//! the same bytes on every system.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;
use std::{env, fs};

use libdeflater::{CompressionLvl, Compressor};
use rawzip::time::UtcDateTime;
use rawzip::{CompressionMethod, ZipArchiveWriter};

/// A regular file that everybody may read and run, so that Lambda can start it.
const MODE: u32 = 0o100_755;

fn main() -> ExitCode {
    let paths: Vec<_> = env::args_os().skip(1).collect();
    let [program, zip] = &paths[..] else {
        eprintln!("usage: pack PROGRAM ZIP");
        return ExitCode::from(2);
    };
    let packed = fs::read(program).map_err(Into::into).and_then(|program| pack(&program, File::create(zip)?));
    match packed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pack: {error}");
            ExitCode::FAILURE
        }
    }
}

fn pack(program: &[u8], zip: impl Write) -> Result<(), Box<dyn Error>> {
    let mut compressor = Compressor::new(CompressionLvl::best());
    let mut compressed = vec![0; compressor.deflate_compress_bound(program.len())];
    let length = compressor.deflate_compress(program, &mut compressed)?;

    let mut archive = ZipArchiveWriter::new(zip);
    let (mut entry, config) = archive
        .new_file("bootstrap")
        .compression_method(CompressionMethod::DEFLATE)
        // The earliest time that a zip can store. With the time of the build, the bytes would differ each time.
        .last_modified(UtcDateTime::from_unix(315_532_800))
        .unix_permissions(MODE)
        .start()?;
    entry.write_all(&compressed[..length])?;
    // This computes the checksum and the length of the uncompressed program.
    let mut uncompressed = config.wrap(io::sink());
    uncompressed.write_all(program)?;
    let (_, descriptor) = uncompressed.finish()?;
    entry.finish(descriptor)?;
    archive.finish()?;
    Ok(())
}
