//! A file system that answers until it is told to hang: a dead NFS server, without a network.
//!
//! A directory with one file, spoken over /dev/fuse. Nothing is cached, so that each access asks.
//! source: linux/fuse.h (protocol 7.31).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::mount::{MountFlags, UnmountFlags};

const CONTENT: &[u8] = b"still here\n";
const FILE_NAME: &[u8] = b"file";
const DIRECTORY: u64 = 1;
const FILE: u64 = 2;

/// The mounted file system; dropping it ends it, and whoever waits for it gets an error.
#[derive(Debug)]
pub struct HungFs {
    mount: PathBuf,
    hung: Arc<AtomicBool>,
    unanswered: Arc<AtomicU64>,
    server: Option<JoinHandle<()>>,
}

impl HungFs {
    /// Mounts it at a directory that exists.
    ///
    /// # Errors
    /// Without root, /dev/fuse or the fuse module.
    pub fn mount(at: &Path) -> io::Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let options = std::ffi::CString::new(options)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("plimsoll-test", at, "fuse", flags, options.as_c_str())?;
        let hung = Arc::new(AtomicBool::new(false));
        let unanswered = Arc::new(AtomicU64::new(0));
        let server = Server {
            device,
            hung: Arc::clone(&hung),
            unanswered: Arc::clone(&unanswered),
        };
        Ok(Self {
            mount: at.to_owned(),
            hung,
            unanswered,
            server: Some(std::thread::spawn(move || server.serve())),
        })
    }

    /// From now on no request is answered.
    pub fn hang(&self) {
        self.hung.store(true, Ordering::SeqCst);
    }

    /// Requests that came since and wait for ever.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::SeqCst)
    }
}

impl Drop for HungFs {
    fn drop(&mut self) {
        // FORCE aborts the connection: waiting requests fail, also those of other namespaces that
        // hold a copy of the mount; then the server's read ends.
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
        let _gone = rustix::mount::unmount(&self.mount, flags);
        if let Some(server) = self.server.take() {
            let _ended = server.join();
        }
        let _kept = fs::remove_dir(&self.mount);
    }
}

struct Server {
    device: File,
    hung: Arc<AtomicBool>,
    unanswered: Arc<AtomicU64>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    u32::from_ne_bytes(word.unwrap_or_default())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    u64::from_ne_bytes(word.unwrap_or_default())
}

/// Builds a reply in the kernel's layout.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u64(mut self, values: &[u64]) -> Self {
        for v in values {
            self.0.extend_from_slice(&v.to_ne_bytes());
        }
        self
    }
    fn u32(mut self, values: &[u32]) -> Self {
        for v in values {
            self.0.extend_from_slice(&v.to_ne_bytes());
        }
        self
    }
    /// `struct fuse_attr`.
    fn attr(self, node: u64) -> Self {
        let (mode, size) = if node == DIRECTORY {
            (0o040_755, 0)
        } else {
            (0o100_644, CONTENT.len() as u64)
        };
        self.u64(&[node, size, 1, 0, 0, 0])
            .u32(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])
    }
}

impl Server {
    fn serve(mut self) {
        let mut buffer = vec![0; 1 << 20];
        // ENODEV at the unmount; ENOENT for a request that was interrupted meanwhile
        loop {
            let length = match self.device.read(&mut buffer) {
                Ok(length) => length,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let request = &buffer[..length];
            if length < 40 {
                return;
            }
            let opcode = u32_at(request, 4);
            let no_reply = matches!(opcode, 2 | 36 | 42);
            if no_reply {
                continue;
            }
            if self.hung.load(Ordering::SeqCst) {
                self.unanswered.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            let unique = u64_at(request, 8);
            let (error, body) = match answer(opcode, u64_at(request, 16), &request[40..]) {
                Ok(out) => (0, out.0),
                Err(errno) => (-errno, Vec::new()),
            };
            let length = u32::try_from(16 + body.len()).unwrap_or(16);
            let mut reply = length.to_ne_bytes().to_vec();
            reply.extend_from_slice(&error.to_ne_bytes());
            reply.extend_from_slice(&unique.to_ne_bytes());
            reply.extend_from_slice(&body);
            let _interrupted = self.device.write_all(&reply);
        }
    }
}

fn answer(opcode: u32, node: u64, body: &[u8]) -> Result<Out, i32> {
    let out = Out::default();
    Ok(match opcode {
        // LOOKUP
        1 => {
            let name = body.split(|b| *b == 0).next().unwrap_or_default();
            if node != DIRECTORY || name != FILE_NAME {
                return Err(libc::ENOENT);
            }
            out.u64(&[FILE, 0, 0, 0]).u32(&[0, 0]).attr(FILE)
        }
        // GETATTR, SETATTR
        3 | 4 => out.u64(&[0]).u32(&[0, 0]).attr(node),
        // OPEN, OPENDIR
        14 | 27 => out.u64(&[0]).u32(&[1 /* FOPEN_DIRECT_IO */, 0]),
        // READ
        15 => {
            let from = usize::try_from(u64_at(body, 8)).unwrap_or(usize::MAX);
            Out(CONTENT.get(from..).unwrap_or_default().to_vec())
        }
        // WRITE: taken and forgotten
        16 => out.u32(&[u32_at(body, 16), 0]),
        // STATFS
        17 => out
            .u64(&[1, 1, 1, 1, 1])
            .u32(&[4096, 255, 4096])
            .u32(&[0; 7]),
        // RELEASE, FSYNC, FLUSH, RELEASEDIR, FSYNCDIR, ACCESS, DESTROY
        18 | 20 | 25 | 29 | 30 | 34 | 38 => out,
        // INIT
        26 => out
            .u32(&[7, 31, 0, 0])
            .u32(&[0, 1 << 17, 1, 0, 0])
            .u32(&[0; 7]),
        // READDIR
        28 if u64_at(body, 8) == 0 => {
            let mut out = out.u64(&[FILE, 1]).u32(&[4, u32::from(libc::DT_REG)]);
            out.0.extend_from_slice(FILE_NAME);
            out.0.resize(out.0.len().next_multiple_of(8), 0);
            out
        }
        28 => out,
        _ => return Err(libc::ENOSYS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn answers_then_hangs_then_goes() {
        crate::needs_root();
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("volume");
        fs::create_dir(&at).unwrap();
        let hung = HungFs::mount(&at).unwrap();
        assert_eq!(fs::read(at.join("file")).unwrap(), CONTENT);
        assert_eq!(fs::read_dir(&at).unwrap().count(), 1);
        hung.hang();
        let file = at.join("file");
        let (tell, told) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || tell.send(fs::read(file).is_ok()));
        crate::until("a request to hang", Duration::from_secs(10), || {
            (hung.unanswered() > 0).then_some(())
        });
        assert!(told.recv_timeout(Duration::from_millis(20)).is_err());
        drop(hung);
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(false));
        reader.join().unwrap().unwrap();
        assert!(!at.exists());
    }
}
