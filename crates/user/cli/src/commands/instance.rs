//! `lambda instance list|show|why|stop|delete`: reading and simple changes.

use lambda_sdk::Customer;
use lambda_sdk::policies::{Chosen, Source};
use lambda_sdk::resolve::Known;
use lambda_types::instance::{Condition, ConditionKind, InstanceState};
use lambda_types::shape::LaunchProfile;
use serde::Serialize;
use serde_json::json;

use crate::args::{Format, Name, Resize, Run};
use crate::commands::attest::policy::sha256;
use crate::commands::customer;
use crate::exit::Failure;
use crate::output::{self, Show, age, table};

/// An instance with its names opened.
#[derive(Serialize)]
pub(crate) struct View {
    pub(crate) id: String,
    name: String,
    tags: Vec<String>,
    description: String,
    pub(crate) state: InstanceState,
    profile: LaunchProfile,
    shape: String,
    vcpus: u32,
    memory_mib: u64,
    image: String,
    volume: String,
    volume_gib: u32,
    node: Option<String>,
    boot: Option<String>,
    created_ms: u64,
    pub(crate) conditions: Vec<Condition>,
    phases: Vec<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<JudgedBy>,
}

/// The policy that an instance is judged by on this machine.
#[derive(Serialize)]
#[serde(tag = "source", rename_all = "kebab-case")]
enum JudgedBy {
    /// Given for the instance.
    Instance { file: String, sha256: String },
    /// Written for its image.
    Image { file: String, sha256: String },
    /// Made from the trusted image.
    TrustedImage { sha256: String },
    /// There is none that can be used.
    None { reason: String },
}

impl JudgedBy {
    fn new(customer: &Customer, known: &Known) -> Self {
        let Chosen { policy, source } = match customer.policy(&known.instance) {
            Ok(chosen) => chosen,
            Err(error) => return Self::None { reason: error.to_string() },
        };
        let sha256 = sha256(&policy);
        match source {
            Source::Instance(path) => Self::Instance { file: path.display().to_string(), sha256 },
            Source::Image(path) => Self::Image { file: path.display().to_string(), sha256 },
            Source::TrustedImage => Self::TrustedImage { sha256 },
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Instance { file, sha256 } => format!("the one given for it, SHA-256 {sha256} ({file})"),
            Self::Image { file, sha256 } => format!("the one written for its image, SHA-256 {sha256} ({file})"),
            Self::TrustedImage { sha256 } => format!("exactly the trusted image, SHA-256 {sha256}"),
            Self::None { reason } => format!("none, nothing is released: {reason}"),
        }
    }
}

impl View {
    /// What this machine knows of an instance.
    pub(crate) fn new(known: &Known) -> Self {
        let instance = &known.instance;
        let metadata = known.metadata.as_ref();
        Self {
            id: instance.id.to_string(),
            name: known.name().to_owned(),
            tags: metadata
                .map(|metadata| metadata.tags.iter().map(|(name, value)| format!("{name}={value}")).collect())
                .unwrap_or_default(),
            description: metadata.map(|metadata| metadata.description.clone()).unwrap_or_default(),
            state: instance.state,
            profile: instance.profile,
            shape: instance.shape.to_string(),
            vcpus: instance.shape.vcpus(),
            memory_mib: instance.shape.memory_mib(),
            image: instance.image.to_string(),
            volume: instance.volume.to_string(),
            volume_gib: instance.volume_gib,
            node: instance.node.map(|node| node.to_string()),
            boot: instance.boot.map(|boot| boot.to_string()),
            created_ms: instance.created_ms,
            conditions: instance.conditions.clone(),
            phases: instance.phases.iter().map(|time| json!(time)).collect(),
            policy: None,
        }
    }

    /// With the policy that it is judged by.
    pub(crate) fn whole(customer: &Customer, known: &Known) -> Self {
        Self { policy: Some(JudgedBy::new(customer, known)), ..Self::new(known) }
    }
}

impl Show for View {
    fn text(&self) -> String {
        let none = || "-".to_owned();
        let rows = [
            ("id", self.id.clone()),
            ("name", self.name.clone()),
            ("state", self.state.to_string()),
            ("shape", format!("{} ({} vCPU, {} MiB)", self.shape, self.vcpus, self.memory_mib)),
            ("profile", format!("{} (tier {})", self.profile, self.profile.tier())),
            ("volume", format!("{} GiB, encrypted ({})", self.volume_gib, self.volume)),
            ("image", self.image.clone()),
            ("node", self.node.clone().unwrap_or_else(none)),
            ("boot", self.boot.clone().unwrap_or_else(none)),
            ("tags", if self.tags.is_empty() { none() } else { self.tags.join(", ") }),
            ("description", if self.description.is_empty() { none() } else { self.description.clone() }),
            ("created", format!("{} ago", age(self.created_ms, lambda_sdk::wait::now_ms()))),
        ];
        let mut text: String = rows.iter().map(|(name, value)| format!("{name:<12}{value}\n")).collect();
        if let Some(policy) = &self.policy {
            text.push_str(&format!("{:<12}{}\n", "policy", policy.text()));
        }
        for condition in &self.conditions {
            let label = match condition.kind {
                ConditionKind::Degraded => "degraded",
                ConditionKind::Failed => "failed",
                _ => "waits for",
            };
            text.push_str(&format!("{label:<12}{}\n", sentence(condition)));
        }
        text
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Listing(Vec<View>);

impl Show for Listing {
    fn text(&self) -> String {
        if self.0.is_empty() {
            return "No instances. `lambda instance create --help` shows how to make one.".into();
        }
        let now = lambda_sdk::wait::now_ms();
        table(
            ["ID", "NAME", "STATE", "SHAPE", "VOLUME", "AGE"],
            self.0.iter().map(|view| {
                let volume = format!("{} GiB", view.volume_gib);
                [
                    view.id.clone(),
                    view.name.clone(),
                    view.state.to_string(),
                    view.shape.clone(),
                    volume,
                    age(view.created_ms, now),
                ]
            }),
        )
    }
}

/// Why an instance is where it is.
#[derive(Serialize)]
struct Why {
    id: String,
    name: String,
    state: InstanceState,
    conditions: Vec<Condition>,
}

impl Show for Why {
    fn text(&self) -> String {
        let mut text = format!("{} ({}) is {}.", self.name, self.id, self.state);
        if self.conditions.is_empty() {
            text.push_str("\nIt waits for nothing.");
        }
        for condition in &self.conditions {
            text.push_str("\n- ");
            text.push_str(&sentence(condition));
        }
        text
    }
}

/// A condition as a person reads it, with its code.
pub(crate) fn sentence(condition: &Condition) -> String {
    let now = lambda_sdk::wait::now_ms();
    let since = age(condition.since_ms, now);
    let until = condition.until_ms.map_or_else(String::new, |until| format!(", gives up in {}", age(now, until)));
    let code = json!(condition.kind);
    format!("{} [{}; for {since}{until}]", condition.message, code.as_str().unwrap_or("?"))
}

/// `lambda instance list`.
pub(crate) async fn list(format: Format) -> Result<(), Failure> {
    let known = customer()?.all().await?;
    output::print(format, &Listing(known.iter().map(View::new).collect()))
}

/// `lambda instance show`.
pub(crate) async fn show(format: Format, args: &Name) -> Result<(), Failure> {
    let customer = customer()?;
    output::print(format, &View::whole(&customer, &customer.find(&args.instance).await?))
}

/// `lambda instance why`.
pub(crate) async fn why(format: Format, args: &Name) -> Result<(), Failure> {
    let known = customer()?.find(&args.instance).await?;
    let why = Why {
        id: known.instance.id.to_string(),
        name: known.name().to_owned(),
        state: known.instance.state,
        conditions: known.instance.conditions.clone(),
    };
    output::print(format, &why)
}

/// `lambda instance stop`.
pub(crate) async fn stop(format: Format, args: &Run) -> Result<(), Failure> {
    let customer = customer()?;
    let known = customer.find(&args.name.instance).await?;
    customer.client.stop_instance(known.instance.id).await?;
    if !args.wait.detach {
        let _ = customer.wait_stopped(known.instance.id, args.wait.timeout).await?;
    }
    output::print(format, &View::whole(&customer, &customer.find(&known.instance.id.to_string()).await?))
}

/// `lambda instance resize`.
pub(crate) async fn resize(format: Format, args: &Resize) -> Result<(), Failure> {
    let customer = customer()?;
    let id = customer.find(&args.name.instance).await?.instance.id;
    let instance = customer.grow_volume(id, args.volume_gib).await?;
    let next_boot = !matches!(instance.state, InstanceState::Stopped | InstanceState::Failed);
    output::print(format, &Resized { id: id.to_string(), volume_gib: instance.volume_gib, next_boot })
}

#[derive(Serialize)]
struct Resized {
    id: String,
    volume_gib: u32,
    /// It runs, at its former size.
    next_boot: bool,
}

impl Show for Resized {
    fn text(&self) -> String {
        let Self { id, volume_gib, next_boot } = self;
        let hint = if *next_boot { format!("; `lambda instance restart {id}` takes it up") } else { String::new() };
        format!("The volume of {id} has {volume_gib} GiB from its next boot on{hint}.")
    }
}

/// `lambda instance delete`.
pub(crate) async fn delete(format: Format, args: &Run) -> Result<(), Failure> {
    let customer = customer()?;
    let id = customer.find(&args.name.instance).await?.instance.id;
    customer.client.delete_instance(id).await?;
    if !args.wait.detach {
        customer.wait_deleted(id, args.wait.timeout).await?;
    }
    output::print(format, &Deleted { id: id.to_string(), deleted: !args.wait.detach })
}

#[derive(Serialize)]
struct Deleted {
    id: String,
    deleted: bool,
}

impl Show for Deleted {
    fn text(&self) -> String {
        if self.deleted {
            format!("{} is gone, its volume too.", self.id)
        } else {
            format!("{} is being deleted.", self.id)
        }
    }
}
