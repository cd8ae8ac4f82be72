//! The host's part: the FUSE server, loop devices, making and mounting file systems.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::disk::Disk;

/// A file system under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    /// All that the lab can make.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// As `mount` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// A little more than the least it can be made on, in bytes.
    #[must_use]
    pub fn disk_size(self) -> u64 {
        let mib = match self {
            Self::Ext4 => 192,
            Self::Xfs => 320,
            Self::Btrfs => 256,
        };
        mib << 20
    }

    /// Makes one in a file or device.
    ///
    /// # Errors
    /// With what its mkfs said.
    pub fn make(self, file: &Path) -> io::Result<()> {
        let (program, options): (&str, &[&str]) = match self {
            // at once instead of in the background after the mount: less noise in the log
            Self::Ext4 => (
                "mkfs.ext4",
                &[
                    "-q",
                    "-F",
                    "-E",
                    "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
                ],
            ),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f", "-K"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f", "-K"]),
        };
        run(program, options, &[file.as_os_str()]).map(|_| ())
    }

    fn mount_options(self) -> &'static std::ffi::CStr {
        match self {
            Self::Ext4 | Self::Btrfs => c"",
            // the state before had the same uuid, and xfs remembers
            Self::Xfs => c"nouuid",
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test lab makes file systems and loop devices with the programs made for it"
)]
fn run(program: &str, options: &[&str], paths: &[&std::ffi::OsStr]) -> io::Result<Output> {
    let output = std::process::Command::new(program)
        .args(options)
        .args(paths)
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("run {program}: {e}: install it")))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(io::Error::other(format!(
        "{program} {options:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// Gives the calling thread a mount namespace of its own, from which nothing propagates.
///
/// # Errors
/// Without root.
pub fn enter_private_namespace() -> io::Result<()> {
    sys::throwaway::unshare(rustix::thread::UnshareFlags::NEWNS)?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    Ok(())
}

/// The FUSE file system with the disk as its one file; ended on drop.
#[derive(Debug)]
pub(super) struct Fuse {
    dir: tempfile::TempDir,
    server: Option<JoinHandle<()>>,
}

impl Fuse {
    /// The calling thread must be in a private namespace.
    pub(super) fn serve(disk: &Disk) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let at = dir.path().join("fuse");
        std::fs::create_dir(&at)?;
        std::fs::create_dir(dir.path().join("mnt"))?;
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        rustix::mount::mount(
            "powercut",
            &at,
            "fuse",
            MountFlags::NOSUID | MountFlags::NODEV,
            std::ffi::CString::new(options)?.as_c_str(),
        )?;
        let server = Server {
            device,
            disk: disk.clone(),
        };
        Ok(Self {
            dir,
            server: Some(std::thread::spawn(move || server.serve())),
        })
    }

    pub(super) fn file(&self) -> PathBuf {
        self.dir.path().join("fuse/disk")
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
        let _gone = rustix::mount::unmount(self.dir.path().join("fuse"), flags);
        if let Some(server) = self.server.take() {
            let _ended = server.join();
        }
    }
}

/// A loop device on the disk; detached on drop.
#[derive(Debug)]
pub(super) struct Attached<'a> {
    device: PathBuf,
    fuse: &'a Fuse,
    disk: &'a Disk,
}

impl<'a> Attached<'a> {
    pub(super) fn attach(fuse: &'a Fuse, disk: &'a Disk) -> io::Result<Self> {
        let output = run("losetup", &["--find", "--show"], &[fuse.file().as_os_str()])?;
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self {
            device: PathBuf::from(device),
            fuse,
            disk,
        })
    }

    pub(super) fn mount(&self, file_system: FileSystem) -> io::Result<Mounted<'_>> {
        let at = self.fuse.dir.path().join("mnt");
        rustix::mount::mount(
            &self.device,
            &at,
            file_system.name(),
            MountFlags::empty(),
            file_system.mount_options(),
        )?;
        Ok(Mounted {
            at,
            file_system,
            attached: self,
            mounted: true,
        })
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        let detached = run("losetup", &["--detach"], &[self.device.as_os_str()]);
        // the device lets go in its own time: the next state must not be presented before
        let end = Instant::now() + Duration::from_secs(10);
        while self.disk.in_use() {
            assert!(
                Instant::now() < end || std::thread::panicking(),
                "{} doesn't let go of the disk: {detached:?}",
                self.device.display()
            );
            if Instant::now() >= end {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The mounted file system; unmounted on drop.
#[derive(Debug)]
pub(super) struct Mounted<'a> {
    at: PathBuf,
    file_system: FileSystem,
    attached: &'a Attached<'a>,
    mounted: bool,
}

impl Mounted<'_> {
    pub(super) fn path(&self) -> &Path {
        &self.at
    }

    /// # Errors
    /// Something in it stays open.
    pub(super) fn unmount(mut self) -> io::Result<()> {
        // a thread that starts a program holds copies of our files until the exec
        let end = Instant::now() + Duration::from_secs(5);
        while let Err(error) = rustix::mount::unmount(&self.at, UnmountFlags::empty()) {
            if Instant::now() >= end || error != rustix::io::Errno::BUSY {
                return Err(io::Error::other(format!(
                    "unmount {}: {error}: close everything before the end of the workload or check",
                    self.at.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.mounted = false;
        self.forget();
        Ok(())
    }

    /// btrfs remembers devices by uuid beyond the unmount.
    fn forget(&self) {
        if self.file_system == FileSystem::Btrfs {
            let device = self.attached.device.as_os_str();
            let _forgotten = run("btrfs", &["device", "scan", "--forget"], &[device]);
        }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if self.mounted {
            let _gone = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
            self.forget();
        }
    }
}

const ROOT: u64 = 1;
const FILE: u64 = 2;
const MAX_WRITE: u32 = 1 << 20;
/// From the start of a request to its body. source: linux/fuse.h `fuse_in_header`
const HEADER: usize = 40;

/// Answers the kernel, one request at a time: what is answered is in the log in that order.
/// source: linux/fuse.h (protocol 7.31)
struct Server {
    device: File,
    disk: Disk,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    u32::from_ne_bytes(word.unwrap_or_default())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    u64::from_ne_bytes(word.unwrap_or_default())
}

#[derive(Default)]
struct Reply(Vec<u8>);

impl Reply {
    fn u64(mut self, values: &[u64]) -> Self {
        self.0.extend(values.iter().flat_map(|v| v.to_ne_bytes()));
        self
    }

    fn u32(mut self, values: &[u32]) -> Self {
        self.0.extend(values.iter().flat_map(|v| v.to_ne_bytes()));
        self
    }

    /// `struct fuse_attr`
    fn attr(self, node: u64, size: u64) -> Self {
        let (mode, size) = match node {
            ROOT => (0o040_755, 0),
            _ => (0o100_600, size),
        };
        self.u64(&[node, size, size / 512, 0, 0, 0])
            .u32(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])
    }
}

impl Server {
    fn serve(mut self) {
        let mut buffer = vec![0; MAX_WRITE as usize + 65536];
        loop {
            let length = match self.device.read(&mut buffer) {
                Ok(length) if length >= HEADER => length,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // ENODEV: unmounted
                _ => return,
            };
            let request = &buffer[..length];
            let (opcode, unique, node) =
                (u32_at(request, 4), u64_at(request, 8), u64_at(request, 16));
            // FORGET, INTERRUPT, BATCH_FORGET are not answered
            if matches!(opcode, 2 | 36 | 42) {
                continue;
            }
            let (error, body) = match self.answer(opcode, node, &request[HEADER..]) {
                Ok(reply) => (0, reply.0),
                Err(errno) => (-errno, Vec::new()),
            };
            let total = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
            let mut reply = total.to_ne_bytes().to_vec();
            reply.extend_from_slice(&error.to_ne_bytes());
            reply.extend_from_slice(&unique.to_ne_bytes());
            reply.extend_from_slice(&body);
            let _interrupted = self.device.write_all(&reply);
        }
    }

    fn answer(&self, opcode: u32, node: u64, body: &[u8]) -> Result<Reply, i32> {
        let reply = Reply::default();
        let disk = &self.disk;
        const FOREVER: u64 = 3600;
        Ok(match opcode {
            // LOOKUP
            1 if node == ROOT && body.starts_with(b"disk\0") => reply
                .u64(&[FILE, 0, FOREVER, FOREVER])
                .u32(&[0, 0])
                .attr(FILE, disk.size()),
            1 => return Err(libc::ENOENT),
            // GETATTR, SETATTR
            3 | 4 => reply.u64(&[FOREVER]).u32(&[0, 0]).attr(node, disk.size()),
            // OPEN, without the page cache: what is written arrives here at once
            14 => {
                disk.opened();
                reply.u64(&[0]).u32(&[1 /* FOPEN_DIRECT_IO */, 0])
            }
            // OPENDIR
            27 => reply.u64(&[0]).u32(&[0, 0]),
            // READ
            15 => Reply(disk.read(u64_at(body, 8), u32_at(body, 16) as usize)),
            // WRITE
            16 => {
                let size = u32_at(body, 16);
                let data = body.get(40..40 + size as usize).ok_or(libc::EIO)?;
                disk.write(u64_at(body, 8), data);
                reply.u32(&[size, 0])
            }
            // STATFS
            17 => reply
                .u64(&[1 << 20, 1 << 20, 1 << 20, 1, 1])
                .u32(&[4096, 255, 4096])
                .u32(&[0; 7]),
            // RELEASE
            18 => {
                disk.released();
                reply
            }
            // FSYNC: what the loop device makes of a flush
            20 => {
                disk.flush();
                reply
            }
            // FLUSH (a close), RELEASEDIR, FSYNCDIR, ACCESS, DESTROY
            25 | 29 | 30 | 34 | 38 => reply,
            // INIT: big writes, pages by number
            26 => reply
                .u32(&[7, 31, 1 << 17, (1 << 5) | (1 << 22)])
                .u32(&[0, MAX_WRITE, 1, MAX_WRITE / 4096])
                .u32(&[0; 8]),
            // FALLOCATE: a discard, or zeros wanted
            43 => {
                disk.discard(u64_at(body, 8), u64_at(body, 16));
                reply
            }
            _ => return Err(libc::ENOSYS),
        })
    }
}
