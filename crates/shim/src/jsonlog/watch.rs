//! One inotify descriptor for all followers of logs in this process.
//!
//! A directory is watched while at least one follower of a log in it lives. Lock order: only
//! `watched`, never held across a wait.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// How often a follower looks for itself where it cannot be woken (`fs.inotify.max_user_watches`).
const POLL: Duration = Duration::from_millis(200);

/// Wakes followers when their log's directory changes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Watcher {
    inner: Arc<Inner>,
}

#[derive(Debug, thiserror::Error)]
#[error("watch log files by inotify")]
pub struct WatchError {
    #[from]
    source: io::Error,
}

#[derive(Debug)]
struct Inner {
    inotify: AsyncFd<OwnedFd>,
    /// By watch descriptor: the followers of that directory.
    watched: Mutex<BTreeMap<i32, Vec<Arc<Notify>>>>,
}

impl Watcher {
    /// Call once per process, inside a tokio runtime.
    ///
    /// # Errors
    /// The host has no inotify instances left (`fs.inotify.max_user_instances`).
    pub fn new() -> Result<Self, WatchError> {
        let fd =
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(io::Error::from)?;
        let inner = Arc::new(Inner {
            inotify: crate::client::register(fd, Interest::READABLE)?,
            watched: Mutex::default(),
        });
        tokio::spawn(distribute(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Watches a directory for as long as the result lives.
    pub(super) fn watch(&self, dir: &Path) -> Watch {
        let notify = Arc::new(Notify::new());
        let events = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        let mut watched = self.inner.watched();
        // one directory has one number, however often it is added
        let number = inotify::add_watch(self.inner.inotify.get_ref(), dir, events).ok();
        if let Some(number) = number {
            watched.entry(number).or_default().push(notify.clone());
        }
        drop(watched);
        Watch {
            inner: self.inner.clone(),
            number,
            notify,
        }
    }
}

impl Inner {
    fn watched(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, Vec<Arc<Notify>>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One follower's interest in one directory.
#[derive(Debug)]
pub(super) struct Watch {
    inner: Arc<Inner>,
    /// Absent where the directory could not be watched.
    number: Option<i32>,
    notify: Arc<Notify>,
}

impl Watch {
    /// Returns after a change since the last call, or now and then where there is no watch.
    pub(super) async fn changed(&self) {
        if self.number.is_none() {
            tokio::time::sleep(POLL).await;
        } else {
            self.notify.notified().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(number) = self.number else {
            return;
        };
        let mut watched = self.inner.watched();
        let Some(followers) = watched.get_mut(&number) else {
            return;
        };
        followers.retain(|n| !Arc::ptr_eq(n, &self.notify));
        if followers.is_empty() {
            watched.remove(&number);
            // a directory that is gone has taken its watch along
            let _ = inotify::remove_watch(self.inner.inotify.get_ref(), number);
        }
    }
}

/// Wakes followers, until the last handle on the watcher is gone.
async fn distribute(inner: std::sync::Weak<Inner>) {
    let mut buffer = [MaybeUninit::uninit(); 2048];
    loop {
        let Some(inner) = inner.upgrade() else {
            return;
        };
        // woken now and then to notice that the watcher is gone
        let ready = tokio::time::timeout(Duration::from_secs(60), inner.inotify.readable());
        let Ok(Ok(mut ready)) = ready.await else {
            continue;
        };
        let mut reader = inotify::Reader::new(inner.inotify.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => inner.wake(event.wd(), event.events()),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        ready.clear_ready();
    }
}

impl Inner {
    fn wake(&self, number: i32, events: ReadFlags) {
        let watched = self.watched();
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            watched.values().flatten().for_each(|n| n.notify_one());
        } else if let Some(followers) = watched.get(&number) {
            followers.iter().for_each(|n| n.notify_one());
        }
    }
}
