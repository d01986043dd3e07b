//! `build OUT GUEST [--relock]`: builds `debian-12`; `replace DIR GUEST`: replaces the guest program of an image.

use std::time::Instant;

use lambda_image::{BuildOptions, Progress, build, measure, replace_guest};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let start = Instant::now();
    let mut progress = |event: Progress| match event {
        Progress::Step(text) => println!("[{:6.2}] {text}", start.elapsed().as_secs_f64()),
        Progress::Notice(text) => println!("[{:6.2}] note: {text}", start.elapsed().as_secs_f64()),
    };
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let manifest = match words.as_slice() {
        ["build", out, guest, rest @ ..] => {
            let mut options = BuildOptions::new("debian-12", *out, *guest);
            options.relock = rest.contains(&"--relock");
            build(&options, &mut progress)?
        }
        ["replace", dir, guest] => replace_guest(dir.as_ref(), guest.as_ref())?,
        ["measure", dir] => {
            let report = measure(dir.as_ref())?;
            for difference in &report.differences {
                println!("{}: manifest {}, parts {}", difference.what, difference.manifest, difference.computed);
            }
            report.manifest
        }
        _ => anyhow::bail!("usage: build OUT GUEST [--relock] | replace DIR GUEST | measure DIR"),
    };
    println!("[{:6.2}] {} {}", start.elapsed().as_secs_f64(), manifest.name, manifest.version);
    Ok(())
}
