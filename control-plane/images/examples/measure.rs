//! Prints how fast layers are converted, and how long a pull takes.
//!
//! `cargo run --release -p bulkhead-images --example measure -- [IMAGE]`: a gigabyte of layers made
//! in memory becomes EROFS, in files of several sizes; then IMAGE, if given, is pulled ten times
//! into an empty store.

use std::{fs::File, io::Read, time::Instant};

use bulkhead_erofs::{Limits, convert};
use bulkhead_images::{PullOptions, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    for (label, size, count) in
        [("4 KiB", 4 << 10, 20_000_u64), ("64 KiB", 64 << 10, 4_000), ("64 MiB", 64 << 20, 4)]
    {
        let tar = tar(size, count)?;
        let out = File::create(dir.path().join("layer"))?;
        let start = Instant::now();
        let (_, summary) = convert(&tar[..], out, Limits::default())?;
        let seconds = start.elapsed().as_secs_f64();
        let rate = tar.len() as f64 / seconds / 1e6;
        println!("files of {label}: {rate:.0} MB/s, image of {} MB", summary.size / 1_000_000);
    }
    let Some(image) = std::env::args().nth(1) else { return Ok(()) };
    let runtime = tokio::runtime::Runtime::new()?;
    let mut times = Vec::new();
    for round in 0..10 {
        let store = runtime.block_on(Store::open(dir.path().join(round.to_string())))?;
        let start = Instant::now();
        runtime.block_on(store.pull(&image, PullOptions::default(), None))?;
        times.push(start.elapsed());
    }
    times.sort();
    println!("pull of {image}: median {:?}, fastest {:?}", times[times.len() / 2], times[0]);
    Ok(())
}

fn tar(size: u64, count: u64) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for index in 0..count {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        let path = format!("{}/{index}", index / 100);
        tar.append_data(&mut header, path, std::io::repeat(b'x').take(size))?;
    }
    tar.into_inner()
}
