//! What the builder needs to know of ELF files: the libraries a program needs, and a kernel module's own notes.

use goblin::elf::Elf;

/// What a dynamic program or library asks for.
pub(crate) struct Needs {
    /// The dynamic loader, for programs.
    pub(crate) interpreter: Option<String>,
    /// Names of shared libraries.
    pub(crate) libraries: Vec<String>,
}

/// Reads what an ELF file needs; `None` when it is not one.
pub(crate) fn needs(bytes: &[u8]) -> Option<Needs> {
    let elf = Elf::parse(bytes).ok()?;
    Some(Needs {
        interpreter: elf.interpreter.map(str::to_owned),
        libraries: elf.libraries.iter().map(|name| (*name).to_owned()).collect(),
    })
}

/// Names of the modules that a kernel module has to be loaded after: hard dependencies, and soft ones of kind `pre`.
pub(crate) fn module_dependencies(bytes: &[u8]) -> Option<Vec<String>> {
    let elf = Elf::parse(bytes).ok()?;
    let section =
        elf.section_headers.iter().find(|header| elf.shdr_strtab.get_at(header.sh_name) == Some(".modinfo"))?;
    let start = usize::try_from(section.sh_offset).ok()?;
    let notes = bytes.get(start..start.checked_add(usize::try_from(section.sh_size).ok()?)?)?;
    let mut found = Vec::new();
    for note in notes.split(|byte| *byte == 0).filter_map(|note| std::str::from_utf8(note).ok()) {
        if let Some(list) = note.strip_prefix("depends=") {
            found.extend(list.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
        }
    }
    Some(found)
}
