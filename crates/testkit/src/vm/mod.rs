//! Virtual machines: what another kernel, another init or another control group set-up makes of us.
//!
//! ```text
//! qemu (no KVM) ── kernel of a Debian package, never installed
//!   initramfs      busybox, modules in load order, files to lay over the root
//!   /dev/vda       a Debian root file system; writes are forgotten
//!   ttyS0 -> console   ttyS1 -> results
//! ```
//! A [`Lab`] is a kind of machine. Its tests are written like any other, around [`Lab::test`]: on the
//! host, the first of them in a test run boots the machine with the test's own program in it, the
//! guest runs every test of the lab, each in a process of its own, and each test on the host then
//! fails or passes as its namesake in the guest did. One boot serves all.

mod cpio;
mod images;
mod lab;

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

pub use images::{Kernel, root_disk};
pub use lab::{Init, Lab, Outcome, Report};

#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("there is no {name}: install {package}")]
    NoProgram {
        name: &'static str,
        package: &'static str,
    },
    #[error("no kernel package of {0} could be downloaded")]
    NoKernel(String),
    #[error("{} is in no target directory of cargo", .0.display())]
    NoTarget(PathBuf),
    #[error("{program} failed: {said}")]
    Failed { program: String, said: String },
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the virtual machine did not end within {0:?}; its console says:\n{1}")]
    Deadline(Duration, String),
}

pub(crate) fn io_error<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> LabError + use<'p> {
    move |source| LabError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// What is laid over the guest's root before its init starts.
#[derive(Debug)]
pub(crate) enum Entry {
    File { mode: u32, content: Vec<u8> },
    Symlink { target: String },
}

/// One boot.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) root: &'a Path,
    pub(crate) modules: &'a [&'a str],
    /// The guest's PID 1.
    pub(crate) init: &'a str,
    /// Added to the kernel's command line.
    pub(crate) append: &'a str,
    /// (absolute path in the guest, what).
    pub(crate) files: Vec<(String, Entry)>,
    pub(crate) deadline: Duration,
}

const MEMORY: &str = "1536";

impl Machine<'_> {
    /// Boots, waits until the guest has switched itself off; `dir` gets `console` and `results`.
    ///
    /// # Errors
    /// When something is missing, by name, or the guest doesn't end in time.
    pub(crate) fn run(&self, dir: &Path) -> Result<(), LabError> {
        let initramfs = dir.join("initramfs");
        self.initramfs(&initramfs)?;
        let mut qemu = images::program("qemu-system-x86_64", "qemu-system-x86")?;
        let file = |name: &str| format!("file:{}", dir.join(name).display());
        let drive = format!(
            "file={},format=raw,if=virtio,snapshot=on",
            self.root.display()
        );
        // panic=-1 with -no-reboot: a guest that panics ends at once instead of at the deadline
        let append = format!(
            "console=ttyS0 loglevel=5 panic=-1 rdinit=/init {}",
            self.append
        );
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-no-reboot", "-nic", "none", "-m", MEMORY, "-smp", "2"])
            // no KVM: it isn't there in most places where tests run
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", &append, "-drive", &drive])
            .args(["-serial", &file("console"), "-serial", &file("results")])
            .stdin(Stdio::null());
        let said = dir.join("qemu");
        let log = File::create(&said).map_err(io_error("make", &said))?;
        qemu.stderr(log);
        let mut child = qemu.spawn().map_err(io_error("start", &said))?;
        let end = Instant::now() + self.deadline;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(io_error("wait for", &said))? {
                break status;
            }
            if Instant::now() >= end {
                child.kill().map_err(io_error("kill", &said))?;
                child.wait().map_err(io_error("wait for", &said))?;
                return Err(LabError::Deadline(
                    self.deadline,
                    tail(&dir.join("console")),
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        fs::remove_file(&initramfs).map_err(io_error("remove", &initramfs))?;
        if status.success() {
            return Ok(());
        }
        Err(LabError::Failed {
            program: "qemu-system-x86_64".to_owned(),
            said: tail(&said),
        })
    }

    fn initramfs(&self, path: &Path) -> Result<(), LabError> {
        let busybox = Path::new("/bin/busybox");
        let shell = fs::read(busybox).map_err(|_| LabError::NoProgram {
            name: "busybox",
            package: "busybox-static",
        })?;
        let modules = self.kernel.load_order(self.modules)?;
        let file = File::create(path).map_err(io_error("make", path))?;
        let write = || -> io::Result<()> {
            let mut archive = cpio::Archive::new(BufWriter::new(file));
            for dir in ["bin", "dev", "proc", "root", "modules", "over"] {
                archive.directory(dir)?;
            }
            archive.file("bin/busybox", 0o755, &shell)?;
            archive.file("init", 0o755, self.first().as_bytes())?;
            let mut order = String::new();
            for module in &modules {
                let name = module.file_name().unwrap_or_default().to_string_lossy();
                archive.file(&format!("modules/{name}"), 0o644, &fs::read(module)?)?;
                order.push_str(&name);
                order.push('\n');
            }
            archive.file("modules/order", 0o644, order.as_bytes())?;
            self.over(&mut archive)?;
            archive.finish().map(drop)
        };
        write().map_err(io_error("write", path))
    }

    fn over<W: io::Write>(&self, archive: &mut cpio::Archive<W>) -> io::Result<()> {
        let mut made = std::collections::BTreeSet::new();
        for (path, entry) in &self.files {
            let path = format!("over/{}", path.trim_start_matches('/'));
            let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
            for parent in parents.skip(1) {
                if made.insert(parent.to_owned()) {
                    archive.directory(parent)?;
                }
            }
            match entry {
                Entry::File { mode, content } => archive.file(&path, *mode, content)?,
                Entry::Symlink { target } => archive.symlink(&path, target)?,
            }
        }
        Ok(())
    }

    /// The initramfs's own init: the root disk, the files over it, and on to the guest's init.
    fn first(&self) -> String {
        format!(
            "#!/bin/busybox sh\n\
             bb() {{ /bin/busybox \"$@\"; }}\n\
             bb mount -t devtmpfs dev /dev\n\
             bb mount -t proc proc /proc\n\
             for m in $(bb cat /modules/order); do bb insmod /modules/$m || echo \"no $m\"; done\n\
             n=0; while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do n=$((n+1)); bb sleep 0.1; done\n\
             bb mount -t ext4 -o noatime /dev/vda /root\n\
             bb cp -a /over/. /root/\n\
             bb rm -rf /over /modules\n\
             bb umount /proc\n\
             bb mount -o move /dev /root/dev\n\
             exec /bin/busybox switch_root /root {}\n",
            self.init
        )
    }
}

/// The end of a log, for a message.
pub(crate) fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
