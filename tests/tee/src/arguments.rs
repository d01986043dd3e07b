//! QEMU's arguments: read, and rewritten for software emulation.

use crate::Outcome;

/// Machine options that only a confidential guest has.
const CONFIDENTIAL: [&str; 3] = ["confidential-guest-support=", "memory-backend=", "kernel-irqchip="];

/// What the real QEMU runs on instead.
const ACCELERATOR: &str = "tcg,thread=multi,tb-size=256";
const PROCESSOR: &str = "max,phys-bits=40";

/// The arguments of one launch.
pub(crate) struct Arguments(Vec<String>);

impl Arguments {
    pub(crate) fn new(arguments: &[String]) -> Self {
        Self(arguments.to_vec())
    }

    fn values<'a>(&'a self, flag: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.windows(2).filter(move |pair| pair[0] == flag).map(|pair| pair[1].as_str())
    }

    /// The value of a flag that must be there.
    pub(crate) fn need(&self, flag: &str) -> Outcome<&str> {
        let at = self.0.windows(2).find(|pair| pair[0] == flag);
        Ok(at.map(|pair| pair[1].as_str()).ok_or_else(|| format!("a confidential guest without {flag}"))?)
    }

    /// Every object.
    pub(crate) fn objects(&self) -> Vec<String> {
        self.values("-object").map(str::to_owned).collect()
    }

    /// Adds to the kernel command line.
    pub(crate) fn append(&mut self, more: &str) -> Outcome<()> {
        let at = self.0.iter().position(|argument| argument == "-append").ok_or("no -append")?;
        let value = self.0.get_mut(at + 1).ok_or("-append without a value")?;
        value.push(' ');
        value.push_str(more);
        Ok(())
    }

    /// The same machine without a confidential processor, which boots the kernel directly, with the port that the
    /// simulated processor listens at.
    pub(crate) fn emulated(&self, port: i32) -> Vec<String> {
        let mut all = Vec::new();
        let mut rest = self.0.iter();
        while let Some(argument) = rest.next() {
            let mut replaced = |value: &str| {
                all.extend([argument.clone(), value.to_owned()]);
                rest.next();
            };
            match argument.as_str() {
                "-accel" => replaced(ACCELERATOR),
                "-cpu" => replaced(PROCESSOR),
                "-machine" => {
                    let value = rest.next().map(String::as_str).unwrap_or_default();
                    let kept = value.split(',').filter(|it| !CONFIDENTIAL.iter().any(|what| it.starts_with(what)));
                    all.extend([argument.clone(), kept.collect::<Vec<_>>().join(",")]);
                }
                "-object" | "-bios" => {
                    rest.next();
                }
                _ => all.push(argument.clone()),
            }
        }
        all.extend(["-chardev".into(), format!("socket,id=tee,fd={port}")]);
        all.extend(["-device".into(), "virtserialport,chardev=tee,name=lambda.tee".into()]);
        all
    }
}
