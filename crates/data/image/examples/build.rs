//! `build OUT GUEST [--relock]`: builds `debian-12`; `replace DIR GUEST`: replaces the guest program of an image;
//! `measure DIR`: compares an image with its manifest; `launch DIR snp|tdx VCPUS [FIRMWARE]`: what one guest measures to.

use std::time::Instant;

use lambda_image::{BuildOptions, LaunchOptions, Progress, build, launch, measure, replace_guest};

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
        ["launch", dir, profile, vcpus, firmware @ ..] => {
            let profile = profile.parse().map_err(anyhow::Error::msg)?;
            let mut options = LaunchOptions::new(profile, vcpus.parse()?);
            options.firmware = firmware.first().map(Into::into);
            println!("{}", serde_json::to_string_pretty(&launch(dir.as_ref(), &options)?)?);
            return Ok(());
        }
        _ => anyhow::bail!(
            "usage: build OUT GUEST [--relock] | replace DIR GUEST | measure DIR | \
             launch DIR snp|tdx VCPUS [FIRMWARE]"
        ),
    };
    println!("[{:6.2}] {} {}", start.elapsed().as_secs_f64(), manifest.name, manifest.version);
    Ok(())
}
