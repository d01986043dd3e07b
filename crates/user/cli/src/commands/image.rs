//! `lambda image …`: making images, and checking what the operator's catalogue claims about them.

use std::path::{Path, PathBuf};

use lambda_image::{BuildOptions, Difference, Launch, LaunchOptions, Progress as Step};
use lambda_sdk::config::Folder as Config;
use lambda_sdk::images;
use lambda_types::image::{ImageManifest, file};
use serde::Serialize;

use crate::args::{Build, Folder, Format, Import, Measure};
use crate::commands::customer;
use crate::exit::{Failure, REFUSED};
use crate::output::{self, Show, table};
use crate::progress::Progress;

/// Name of the guest program beside this one.
const GUEST: &str = "lambda-guest";

/// An image that was made, measured or trusted.
#[derive(Serialize)]
struct Made {
    id: String,
    name: String,
    version: String,
    folder: String,
    #[serde(skip)]
    outcome: &'static str,
}

impl Made {
    fn new(folder: &Path, manifest: &ImageManifest, id: impl ToString, outcome: &'static str) -> Self {
        Self {
            id: id.to_string(),
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            folder: folder.display().to_string(),
            outcome,
        }
    }
}

impl Show for Made {
    fn text(&self) -> String {
        format!("{} {} ({}): {}", self.name, self.version, self.id, self.outcome)
    }
}

/// `lambda image build`.
pub(crate) fn build(format: Format, args: &Build) -> Result<(), Failure> {
    let mut options = BuildOptions::new(&args.distribution, &args.out, guest(args.guest.as_deref())?);
    options.lock.clone_from(&args.lock);
    options.relock = args.relock;
    let mut progress = Progress::start();
    let _ = lambda_image::build(&options, &mut |step| show_step(&mut progress, step)).map_err(Failure::other)?;
    progress.finish();
    made(format, &args.out, "built")
}

/// `lambda image import`.
pub(crate) fn import(format: Format, args: &Import) -> Result<(), Failure> {
    let options = lambda_image::ImportOptions {
        name: args.name.clone(),
        version: args.version.clone(),
        rootfs: args.rootfs.clone(),
        kernel: args.kernel.clone(),
        modules: args.modules.clone(),
        firmware: args.firmware.clone(),
        guest_binary: guest(args.guest.as_deref())?,
        out: args.out.clone(),
    };
    let mut progress = Progress::start();
    let imported = lambda_image::import(&options, &mut |step| show_step(&mut progress, step));
    progress.finish();
    let _ = imported.map_err(|error| import_failed(args, &error))?;
    made(format, &args.out, "imported")
}

/// What the person gave is at fault, or something else is.
fn import_failed(args: &Import, error: &lambda_image::Error) -> Failure {
    use lambda_image::Error;
    let given = |path: &PathBuf| {
        [Some(&args.rootfs), Some(&args.kernel), args.modules.as_ref(), args.firmware.as_ref(), args.guest.as_ref()]
            .contains(&Some(path))
    };
    match error {
        Error::Import(_) | Error::Content(_) => Failure::usage(error.to_string()),
        Error::Io { path, .. } if given(path) => Failure::usage(error.to_string()),
        other => Failure::other(other),
    }
}

/// `lambda image measure`.
pub(crate) fn measure(format: Format, args: &Measure) -> Result<(), Failure> {
    let folder = &args.folder.folder;
    let _ = measured_manifest(folder)?;
    let (Some(profile), Some(vcpus)) = (args.profile, args.vcpus) else {
        return made(format, folder, "every part and every expected measurement is as image.json says");
    };
    let options = LaunchOptions { firmware: args.firmware.clone(), ..LaunchOptions::new(profile, vcpus) };
    let launch = lambda_image::launch(folder, &options).map_err(|error| Failure::usage(error.to_string()))?;
    output::print(format, &launch)
}

impl Show for Launch {
    fn text(&self) -> String {
        let rows = self.registers.iter().map(|(name, value)| [(*name).to_owned(), value.clone()]);
        let mut text = table(["REGISTER", "VALUE"], rows);
        text.push_str(&format!("\n\nfirmware SHA-256 {}", self.firmware_sha256));
        self.conditions.iter().for_each(|condition| text.push_str(&format!("\nholds under: {condition}")));
        self.not_predicted.iter().for_each(|(name, why)| text.push_str(&format!("\nnot predicted: {name}: {why}")));
        text
    }
}

/// `lambda image trust`.
pub(crate) fn trust(format: Format, args: &Folder) -> Result<(), Failure> {
    let bytes = measured_manifest(&args.folder)?;
    let trusted = images::trust(&Config::from_environment()?, &bytes)?;
    let outcome = "measured, and trusted from now on: release policies accept it";
    output::print(format, &Made::new(&args.folder, &trusted.manifest, trusted.id, outcome))
}

/// The manifest's bytes, once everything in it was recomputed from the parts and agrees.
///
/// # Errors
/// With code 3 when a part or a measurement differs; says which.
pub(crate) fn measured_manifest(folder: &Path) -> Result<Vec<u8>, Failure> {
    let report = lambda_image::measure(folder).map_err(Failure::other)?;
    if !report.is_consistent() {
        let line = |difference: &Difference| {
            let Difference { what, manifest, computed } = difference;
            format!("{what}: image.json says {manifest}, the parts give {computed}")
        };
        let lines: Vec<String> = report.differences.iter().map(line).collect();
        let message = format!("{} is not what it claims to be:\n  {}", folder.display(), lines.join("\n  "));
        return Err(Failure::new(REFUSED, message));
    }
    std::fs::read(folder.join(file::MANIFEST)).map_err(Failure::other)
}

fn made(format: Format, folder: &Path, outcome: &'static str) -> Result<(), Failure> {
    let (id, manifest) = lambda_image::load(folder).map_err(Failure::other)?;
    output::print(format, &Made::new(folder, &manifest, id, outcome))
}

fn show_step(progress: &mut Progress, step: Step) {
    match step {
        Step::Step(text) => progress.begin(&text),
        Step::Notice(text) => progress.note(&text),
    }
}

/// The guest program: as given, or the one that was installed beside this program.
fn guest(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe().map_err(Failure::other)?.with_file_name(GUEST),
    };
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::usage(format!("no guest program at {}; give it with --guest FILE", path.display())))
}

#[derive(Serialize)]
struct Offered {
    id: String,
    name: String,
    version: String,
    trusted: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Catalogue(Vec<Offered>);

impl Show for Catalogue {
    fn text(&self) -> String {
        table(
            ["ID", "NAME", "VERSION", "TRUSTED BY YOU"],
            self.0.iter().map(|image| {
                let trusted = if image.trusted { "yes" } else { "no" };
                [image.id.clone(), image.name.clone(), image.version.clone(), trusted.to_owned()]
            }),
        )
    }
}

/// `lambda image list`.
pub(crate) async fn list(format: Format) -> Result<(), Failure> {
    let customer = customer()?;
    let trusted = images::list(&customer.folder)?;
    let offered = customer.client.images().await?.into_iter().map(|image| Offered {
        trusted: trusted.iter().any(|known| known.id == image.id),
        id: image.id.to_string(),
        name: image.name,
        version: image.version,
    });
    output::print(format, &Catalogue(offered.collect()))
}
