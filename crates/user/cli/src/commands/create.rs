//! `lambda instance create|start|restart`: the changes that end in a release, with every step shown as it happens.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lambda_attest::Policy;
use lambda_sdk::broker::Event;
use lambda_sdk::customer::{NewInstance, Started};
use lambda_sdk::resolve::Known;
use lambda_sdk::{Customer, images};
use lambda_types::InstanceId;
use lambda_types::instance::{Instance, VOLUME_GIB};
use lambda_types::shape::LaunchProfile;

use crate::args::{self, Boot, Create, Format, Run};
use crate::commands::attest::{policy, summary};
use crate::commands::customer;
use crate::commands::instance::View;
use crate::exit::Failure;
use crate::output;
use crate::progress::Progress;

/// Longest user data script, bytes.
const USER_DATA_BYTES: u64 = 32 * 1024;

/// Longest file of environment variables, bytes.
const ENVIRONMENT_BYTES: u64 = 64 * 1024;

/// `lambda instance create`.
pub(crate) async fn create(format: Format, args: &Create) -> Result<(), Failure> {
    if !VOLUME_GIB.contains(&args.volume_gib) {
        let message = format!("--volume-gib must be {} to {}", VOLUME_GIB.start(), VOLUME_GIB.end());
        return Err(Failure::usage(message));
    }
    let customer = customer()?;
    let given = Given::read(args)?;
    customer.check_platform().await?;
    let mut progress = Progress::start();
    let instance = customer.create(new_instance(&customer, args, given).await?).await?;
    progress
        .done("sealed", "volume key, hostname, SSH keys, user data, name and tags; the cloud stores only ciphertext");
    if !args.wait.detach {
        serve(&customer, &instance, args.wait.timeout, &mut progress).await?;
    }
    progress.finish();
    show(format, &customer, instance.id).await
}

/// `lambda instance start`.
pub(crate) async fn start(format: Format, args: &Boot) -> Result<(), Failure> {
    let customer = customer()?;
    let known = prepare(&customer, args).await?;
    let id = known.instance.id;
    if customer.start(&known.instance).await? == Started::AlreadyRunning {
        Progress::start().note(&format!("{} is already running; nothing was started", called(&known)));
        return show(format, &customer, id).await;
    }
    boot(format, &customer, &known.instance, &args.run).await
}

/// `lambda instance restart`.
pub(crate) async fn restart(format: Format, args: &Boot) -> Result<(), Failure> {
    let customer = customer()?;
    let instance = prepare(&customer, args).await?.instance;
    customer.client.restart_instance(instance.id).await?;
    boot(format, &customer, &instance, &args.run).await
}

/// The instance; a policy that was given is remembered before anything is asked for.
async fn prepare(customer: &Customer, args: &Boot) -> Result<Known, Failure> {
    let policy = args.policy.policy.as_deref().map(policy::accepted).transpose()?;
    customer.check_platform().await?;
    let known = customer.find(&args.run.name.instance).await?;
    if let Some(policy) = &policy {
        customer.set_policy(known.instance.id, policy)?;
    }
    Ok(known)
}

fn called(known: &Known) -> String {
    match &known.metadata {
        Some(metadata) => metadata.name.clone(),
        None => known.instance.id.to_string(),
    }
}

async fn boot(format: Format, customer: &Customer, instance: &Instance, args: &Run) -> Result<(), Failure> {
    if !args.wait.detach {
        let mut progress = Progress::start();
        serve(customer, instance, args.wait.timeout, &mut progress).await?;
    }
    show(format, customer, instance.id).await
}

async fn show(format: Format, customer: &Customer, id: InstanceId) -> Result<(), Failure> {
    output::print(format, &View::whole(customer, &customer.find(&id.to_string()).await?))
}

/// Releases the instance's keys once its evidence is accepted, showing each step.
async fn serve(
    customer: &Customer,
    instance: &Instance,
    timeout: Duration,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let (id, profile) = (instance.id, customer.records.load(instance.id)?.profile(instance));
    let served = customer.serve(id, timeout, &mut |event| step(progress, profile, &event)).await;
    progress.finish();
    served.map(|_| ()).map_err(|error| {
        let mut failure = Failure::from(error);
        failure.message = format!("{}\n`lambda instance why {id}` says more", failure.message);
        failure
    })
}

/// Who measures what, while a guest of this profile boots.
const fn measured(profile: LaunchProfile) -> &'static str {
    match profile {
        LaunchProfile::Tpm => "firmware measures kernel, initramfs and command line into the vTPM",
        LaunchProfile::Sgx => {
            "firmware measures kernel, initramfs and command line into the vTPM; memory for enclaves is beside it"
        }
        LaunchProfile::Snp => {
            "the processor measured firmware, virtual processors and the hashes of kernel, initramfs and command line"
        }
        LaunchProfile::Tdx => {
            "the TDX module measured the firmware, which measures kernel, initramfs and command line into the registers"
        }
        LaunchProfile::Cca => "the realm manager measured what the realm starts from",
    }
}

/// What a challenge to a guest of this profile is.
const fn challenge(profile: LaunchProfile) -> &'static str {
    match profile {
        LaunchProfile::Tpm | LaunchProfile::Sgx => {
            "the guest was challenged: a fresh nonce, and a credential that only its vTPM can open"
        }
        LaunchProfile::Snp => {
            "the guest was challenged: a fresh nonce, which a report that its processor signs has to cover"
        }
        LaunchProfile::Tdx => {
            "the guest was challenged: a fresh nonce, which a quote of its processor's quoting enclave has to cover"
        }
        LaunchProfile::Cca => "the guest was challenged: a fresh nonce, which its realm's signed token has to cover",
    }
}

fn step(progress: &mut Progress, profile: LaunchProfile, event: &Event) {
    match event {
        Event::Placed { node } => {
            progress.done("placed", &node.map_or_else(|| "a node was chosen".into(), |node| format!("on {node}")));
        }
        Event::Booting => progress.done("booting", measured(profile)),
        Event::Challenged => progress.note(challenge(profile)),
        Event::Attested(verdict) => {
            progress.done("attested", &summary(verdict));
            progress.note(verdict.tier_statement());
        }
        Event::Released => progress.done("released", "secrets encrypted to the attested key (HPKE), once"),
        Event::Refused(verdict) => progress.note(&summary(verdict)),
        Event::PinStored => progress.note("the new volume's header is pinned in the sealed secrets"),
        Event::Unlocked => progress.done("unlocked", "LUKS2, AES-256-GCM with integrity"),
        Event::Ready => progress.done("ready", "SSH answers with the attested host key"),
        Event::Waiting(what) => progress.waiting(what),
    }
}

/// The files that a creation names, read before anything is asked of the cloud.
struct Given {
    authorized_keys: Vec<String>,
    user_data: Option<Vec<u8>>,
    environment: BTreeMap<String, String>,
    policy: Option<Policy>,
}

impl Given {
    fn read(args: &Create) -> Result<Self, Failure> {
        let mut authorized_keys = Vec::new();
        for path in &args.ssh_keys {
            let text = String::from_utf8(read(path, USER_DATA_BYTES)?)
                .map_err(|_| Failure::usage(format!("{} is not an SSH public key file", path.display())))?;
            if text.contains("PRIVATE KEY") {
                return Err(Failure::usage(format!("{} is a private key; give its .pub file", path.display())));
            }
            authorized_keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        }
        Ok(Self {
            authorized_keys,
            user_data: args.user_data.as_deref().map(|path| read(path, USER_DATA_BYTES)).transpose()?,
            environment: environment(args)?,
            policy: args.policy.policy.as_deref().map(policy::accepted).transpose()?,
        })
    }
}

async fn new_instance(customer: &Customer, args: &Create, given: Given) -> Result<NewInstance, Failure> {
    let trusted = images::list(&customer.folder)?;
    let image = images::choose(&trusted, &customer.client.images().await?, &args.image)?;
    Ok(NewInstance {
        name: args.name.clone(),
        description: args.description.clone(),
        tags: args.tags.iter().cloned().collect(),
        shape: args.shape,
        profile: args.profile,
        image,
        volume_gib: args.volume_gib,
        hostname: args.hostname.clone(),
        authorized_keys: given.authorized_keys,
        user_data: given.user_data,
        environment: given.environment,
        policy: given.policy,
    })
}

/// The variables of the files in their order, then those of the command line. No error quotes a line: it may hold a secret.
fn environment(args: &Create) -> Result<BTreeMap<String, String>, Failure> {
    let mut variables = BTreeMap::new();
    for path in &args.environment_files {
        let text = String::from_utf8(read(path, ENVIRONMENT_BYTES)?)
            .map_err(|_| Failure::usage(format!("{} is not UTF-8 text", path.display())))?;
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = args::pair(line)
                .map_err(|why| Failure::usage(format!("{}, line {}: {why}", path.display(), index + 1)))?;
            variables.insert(name, value);
        }
    }
    variables.extend(args.environment.iter().cloned());
    Ok(variables)
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > most {
        return Err(Failure::usage(format!("{} has {size} bytes; at most {most} are possible", path.display())));
    }
    std::fs::read(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vtpm_is_spoken_of_only_where_there_is_one() {
        for profile in LaunchProfile::ALL {
            for text in [measured(profile), challenge(profile)] {
                assert_eq!(text.contains("vTPM"), profile.has_vtpm(), "{profile}: {text}");
            }
        }
    }
}
