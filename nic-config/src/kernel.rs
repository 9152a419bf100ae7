//! The kernel: its arguments, the file we would add to them, what it runs on, and its transparent hugepages; from
//! procfs, sysfs and `/etc/default/grub.d`.

use std::path::Path;

use crate::host::{entries, line};

/// The file of kernel arguments that is ours alone. Debian's `update-grub` reads the folder after the machine's own
/// `/etc/default/grub`, which nothing here ever touches.
pub const ARGUMENTS_FILE: &str = "etc/default/grub.d/60-keyferry.cfg";

/// What the kernel was started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Its arguments, in order; `None` where they cannot be read.
    pub arguments: Option<Vec<String>>,
    /// [`ARGUMENTS_FILE`], if it is there.
    pub arguments_file: Option<String>,
    /// This machine's boot loader reads such files.
    pub has_grub: bool,
    /// It runs in a virtual machine.
    pub is_guest: bool,
    /// The processor is AMD's.
    pub is_amd: bool,
    /// Transparent hugepages: `always`, `madvise` or `never`; empty where it cannot be told.
    pub transparent_hugepages: String,
    /// Modules that are loaded or built in, as sysfs spells them.
    pub modules: Vec<String>,
}

impl Kernel {
    pub(crate) fn read(root: &Path) -> Kernel {
        let text = |path: &str| std::fs::read_to_string(root.join(path)).ok();
        let processor = text("proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let row = processor.lines().find(|row| row.starts_with(name));
            row.and_then(|row| row.split_once(':')).map_or("", |(_, value)| value.trim())
        };
        Kernel {
            arguments: text("proc/cmdline").map(|text| arguments(&text)),
            arguments_file: text(ARGUMENTS_FILE),
            has_grub: root.join("etc/default/grub").exists(),
            is_guest: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            is_amd: field("vendor_id") == "AuthenticAMD",
            transparent_hugepages: chosen(&line(&root.join("sys/kernel/mm/transparent_hugepage/enabled"))),
            modules: entries(&root.join("sys/module")),
        }
    }

    /// The last value of an argument.
    pub fn argument(&self, name: &str) -> Option<&str> {
        let mut arguments = self.arguments.iter().flatten().rev();
        arguments.find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether a module is there; the kernel takes `-` for `_` in its name.
    pub fn has_module(&self, name: &str) -> bool {
        let name = name.replace('-', "_");
        self.modules.contains(&name)
    }
}

/// Arguments of the kernel; what follows `--` is for the first process.
fn arguments(text: &str) -> Vec<String> {
    text.split_whitespace().take_while(|word| *word != "--").map(str::to_owned).collect()
}

/// The choice in a file that lists all of them, `always [madvise] never`; any other text as it is.
pub(crate) fn chosen(text: &str) -> String {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(text.trim(), |(chosen, _)| chosen).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_arguments() {
        let kernel = Kernel {
            arguments: Some(arguments("ro isolcpus=1 quiet isolcpus=managed_irq,2-3 -- isolcpus=9\n")),
            ..Kernel::default()
        };
        assert_eq!(kernel.argument("isolcpus"), Some("managed_irq,2-3"));
        assert_eq!((kernel.argument("quiet"), kernel.argument("isol")), (None, None));
    }

    #[test]
    fn reads_choices() {
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen("powersave\n"), "powersave");
    }

    proptest! {
        #[test]
        fn survives_anything(text in ".{0,64}") {
            arguments(&text);
            chosen(&text);
        }
    }
}
