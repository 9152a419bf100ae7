//! Fixture hosts: the few files of sysfs and procfs a snapshot reads, made in a temporary folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A host's root folder.
pub struct Tree(tempfile::TempDir);

impl Tree {
    pub fn new() -> Tree {
        Tree(tempfile::tempdir().unwrap())
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn folder(&self, path: &str) {
        fs::create_dir_all(self.root().join(path)).unwrap();
    }

    fn cores(&self, online: &str, flags: &str) {
        self.file("sys/devices/system/cpu/online", online);
        self.file(
            "proc/cpuinfo",
            &format!("processor\t: 0\nmodel name\t: test\nflags\t\t: {flags}\n\nprocessor\t: 1\n"),
        );
    }

    fn node(&self, node: usize, cores: &str) {
        self.file(&format!("sys/devices/system/node/node{node}/cpulist"), cores);
    }

    fn hugepages(&self, folder: &str, page_kib: u64, total: u64, free: u64) {
        let folder = format!("{folder}/hugepages-{page_kib}kB");
        self.file(&format!("{folder}/nr_hugepages"), &format!("{total}\n"));
        self.file(&format!("{folder}/free_hugepages"), &format!("{free}\n"));
    }

    fn pci(&self, address: &str, class: &str, driver: Option<&str>, node: i32, interface: Option<&str>) {
        let folder = format!("sys/bus/pci/devices/{address}");
        self.file(&format!("{folder}/class"), &format!("{class}\n"));
        self.file(&format!("{folder}/numa_node"), &format!("{node}\n"));
        if let Some(driver) = driver {
            self.folder(&format!("sys/bus/pci/drivers/{driver}"));
            let to = format!("../../drivers/{driver}");
            symlink(to, self.root().join(&folder).join("driver")).unwrap();
        }
        if let Some(interface) = interface {
            self.folder(&format!("{folder}/net/{interface}"));
        }
    }

    fn interfaces(&self, interfaces: &[(&str, &str, &str)]) {
        let mut dev =
            String::from("Inter-|   Receive                  |  Transmit\n face |bytes    packets\n");
        for (name, flags, mtu) in interfaces {
            dev += &format!("{name:>6}: 1 2 0 0\n");
            self.file(&format!("sys/class/net/{name}/flags"), &format!("{flags}\n"));
            self.file(&format!("sys/class/net/{name}/mtu"), &format!("{mtu}\n"));
        }
        self.file("proc/net/dev", &dev);
    }

    fn process(&self, user: u32, capabilities: u64, cores: &str, memlock: &str, environment: &[u8]) {
        self.file(
            "proc/self/status",
            &format!(
                "Name:\tkeyferry\nUid:\t1000\t{user}\t{user}\t{user}\nCapEff:\t{capabilities:016x}\nCpus_allowed_list:\t{cores}\n"
            ),
        );
        self.file(
            "proc/self/limits",
            &format!("Limit                     Soft Limit           Hard Limit           Units     \nMax locked memory         {memlock}              {memlock}              bytes     \n"),
        );
        fs::write(self.root().join("proc/self/environ"), environment).unwrap();
    }
}

/// Two sockets, four cores each, hugepages of two sizes, three ports, everything bound and isolated.
pub fn server() -> Tree {
    let tree = Tree::new();
    tree.cores("0-7\n", "fpu aes pclmulqdq vaes vpclmulqdq avx512f avx512bw avx512vl avx512dq");
    tree.file("sys/devices/system/cpu/isolated", "1-3,5\n");
    for (core, siblings) in [(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3"), (4, "4,6"), (5, "5,7")] {
        tree.file(&format!("sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"), siblings);
    }
    tree.node(0, "0-3\n");
    tree.node(1, "4-7\n");
    tree.hugepages("sys/devices/system/node/node0/hugepages", 2048, 512, 256);
    tree.hugepages("sys/devices/system/node/node0/hugepages", 1_048_576, 2, 1);
    tree.hugepages("sys/devices/system/node/node1/hugepages", 2048, 64, 32);
    tree.hugepages("sys/kernel/mm/hugepages", 2048, 576, 288);
    tree.file(
        "proc/mounts",
        "proc /proc proc rw 0 0\nhugetlbfs /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\n",
    );
    tree.file("proc/meminfo", "MemTotal:       65000000 kB\nMemAvailable:   60000000 kB\n");
    tree.pci("0000:00:1f.2", "0x010601", Some("ahci"), 0, None);
    tree.pci("0000:18:00.0", "0x020000", Some("ice"), 0, Some("eth0"));
    tree.pci("0000:3b:00.0", "0x020000", Some("vfio-pci"), 0, None);
    tree.pci("0000:af:00.0", "0x020000", Some("mlx5_core"), 1, Some("eth1"));
    tree.folder("sys/kernel/iommu_groups/0");
    tree.folder("sys/kernel/iommu_groups/1");
    tree.folder("sys/class/infiniband/mlx5_0");
    tree.interfaces(&[("lo", "0x9", "65536"), ("eth0", "0x1003", "1500"), ("eth1", "0x1003", "9000")]);
    tree.process(0, 0x1ff_ffff_ffff, "0-7", "unlimited", b"PATH=/bin\0HOME=/root\0");
    tree
}

/// One socket without NUMA folders, no hugepages, an ordinary user, Wi-Fi.
pub fn laptop() -> Tree {
    let tree = Tree::new();
    tree.cores("0-3\n", "fpu aes pclmulqdq avx2");
    tree.file("sys/devices/system/cpu/isolated", "\n");
    tree.hugepages("sys/kernel/mm/hugepages", 2048, 0, 0);
    tree.file("proc/meminfo", "MemTotal:       16000000 kB\nMemAvailable:   8000000 kB\n");
    tree.pci("0000:00:14.3", "0x028000", Some("iwlwifi"), -1, Some("wlan0"));
    tree.interfaces(&[("lo", "0x9", "65536"), ("eth0", "0x1002", "1500"), ("wlan0", "0x1003", "1500")]);
    tree.file(
        "proc/net/fib_trie",
        "Local:\n  +-- 0.0.0.0/0 3 0 5\n     +-- 198.51.100.0/24 2 0 2\n        |-- 198.51.100.0\n           /24 link UNICAST\n        |-- 198.51.100.7\n           /32 host LOCAL\n        |-- 192.0.2.1\n           /32 link BROADCAST\n",
    );
    tree.file("proc/net/if_inet6", "fe800000000000000000000000000001 03 40 20 80    wlan0\n");
    tree.process(1000, 0, "0-3", "8388608", b"PATH=/bin\0");
    tree
}

/// Two cores without AES, virtio ports, no IOMMU, an environment that slows AES down.
pub fn virtual_machine() -> Tree {
    let tree = Tree::new();
    tree.cores("0-1\n", "fpu sse2");
    tree.node(0, "0-1\n");
    tree.hugepages("sys/devices/system/node/node0/hugepages", 2048, 256, 256);
    tree.file("proc/meminfo", "MemTotal:       2000000 kB\nMemAvailable:   1500000 kB\n");
    tree.pci("0000:00:03.0", "0x020000", Some("vfio-pci"), -1, None);
    tree.pci("0000:00:04.0", "0x020000", None, -1, None);
    tree.interfaces(&[("lo", "0x9", "65536")]);
    tree.process(0, 0x1ff_ffff_ffff, "0-1", "65536", b"OPENSSL_ia32cap=~0x0\0PATH=/bin");
    tree
}
