//! What is mounted in containers beyond directories of the host: parts of volumes, images, volumes with
//! options of the driver `local`, another container's /dev/shm.

use testkit::image::{BUSYBOX, Image, Node};
use testkit::instance::command;
use testkit::{Instance, Snapshot};

use crate::said as text;

/// Words of one command of ours: what it said on both streams.
fn said(instance: &Instance, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    text(&instance.plimsoll(&words))
}

/// A container that ran this in the shell, and is gone.
fn shell(instance: &Instance, options: &str, script: &str) -> String {
    let mut words = vec!["run", "--rm", "--network", "none"];
    words.extend(options.split(' '));
    words.extend([BUSYBOX, "sh", "-c", script]);
    text(&instance.plimsoll(&words))
}

/// The image's files below /srv/data, which fill volumes.
fn with_files(instance: &Instance) {
    let file = |text: &str| Node::File(text.as_bytes().to_vec(), 0o644);
    let image = Image::busybox().unwrap().named("files:1").layer(vec![
        ("srv".to_owned(), Node::Directory(0o755)),
        ("srv/data".to_owned(), Node::Directory(0o750)),
        ("srv/data/one".to_owned(), file("first")),
        ("srv/data/deep".to_owned(), Node::Directory(0o755)),
        ("srv/data/deep/two".to_owned(), file("second")),
        ("srv/data/out".to_owned(), Node::Symlink("/etc".to_owned())),
    ]);
    instance.load(&image);
}

/// Only what is below it is seen, also where a link of the container's making would lead out of the volume.
#[test]
fn a_part_of_a_volume_and_no_way_out_of_it() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let make = "mkdir -p /v/a/b; echo deep >/v/a/b/file; ln -s /etc /v/abroad; ln -s a/b /v/within; ln -s ../../.. /v/up";
    assert_eq!(shell(&instance, "-v data:/v", make), "");
    let part =
        |subpath: &str| format!("--mount type=volume,src=data,dst=/p,volume-subpath={subpath}");
    for inside in ["a/b", "within", "./a/b"] {
        assert_eq!(
            shell(&instance, &part(inside), "cat /p/file; ls /p"),
            "deep\nfile",
            "{inside}"
        );
    }
    // one file too, as with a bind
    assert_eq!(shell(&instance, &part("a/b/file"), "cat /p"), "deep");
    for (wrong, why) in [
        ("abroad", "abroad of volume data"),
        ("up", "up of volume data"),
        ("absent", "absent of volume data"),
        ("../data", "without .."),
        ("/a", "relative path"),
    ] {
        let refused = shell(&instance, &part(wrong), "cat /p/*");
        assert!(refused.contains(why), "{wrong}: {refused}");
        assert!(!refused.contains("root:"), "{wrong}: {refused}");
    }
    let refused = shell(&instance, &format!("{},ro", part("a")), "touch /p/x");
    assert!(refused.contains("Read-only file system"), "{refused}");
    said(&instance, "volume rm data");
    clean.assert_settled(&instance);
}

/// `docker cp` finds the part, running and stopped.
#[test]
fn copies_go_to_the_part_that_is_mounted() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    shell(&instance, "-v data:/v", "mkdir /v/a; echo in >/v/a/file");
    let file = instance.path().join("copy");
    let file = file.to_str().unwrap();
    said(
        &instance,
        &format!(
            "create --name copied --network none --mount type=volume,src=data,dst=/p,volume-subpath=a {BUSYBOX} sleep 1000"
        ),
    );
    for _ in 0..2 {
        assert_eq!(said(&instance, &format!("cp -q copied:/p/file {file}")), "");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "in\n");
        std::fs::remove_file(file).unwrap();
        said(&instance, "start copied");
    }
    said(&instance, "rm -f copied");
    said(&instance, "volume rm data");
    clean.assert_settled(&instance);
}

#[test]
fn an_image_is_mounted_read_only_and_kept_while_it_is() {
    let instance = Instance::with_busybox();
    with_files(&instance);
    let clean = Snapshot::take(&instance);
    let seen = shell(
        &instance,
        "--mount type=image,src=files:1,dst=/i",
        "cat /i/srv/data/one; touch /i/x; ls /i/bin/busybox",
    );
    assert!(seen.contains("first"), "{seen}");
    assert!(seen.contains("Read-only file system"), "{seen}");
    assert!(seen.contains("/i/bin/busybox"), "{seen}");
    let part = "--mount type=image,src=files:1,dst=/i,image-subpath=srv/data/deep";
    assert_eq!(shell(&instance, part, "cat /i/two"), "second");
    let out = "--mount type=image,src=files:1,dst=/i,image-subpath=srv/data/out";
    let refused = shell(&instance, out, "cat /i/passwd");
    assert!(refused.contains("out of image files:1"), "{refused}");
    let absent = shell(&instance, "--mount type=image,src=absent:1,dst=/i", "true");
    assert!(absent.contains("No such image"), "{absent}");

    said(
        &instance,
        &format!(
            "run -d --name user --network none --mount type=image,src=files:1,dst=/i {BUSYBOX} sleep 1000"
        ),
    );
    let mounts = instance.inspect("user")["Mounts"].clone();
    assert_eq!(mounts[0]["Type"], "image", "{mounts}");
    assert_eq!(mounts[0]["Source"], "files:1", "{mounts}");
    assert_eq!(mounts[0]["RW"], false, "{mounts}");
    for force in ["", "-f "] {
        let refused = said(&instance, &format!("rmi {force}files:1"));
        assert!(
            refused.contains("user") && refused.contains("mounts it"),
            "{refused}"
        );
    }
    said(&instance, "image prune -af");
    assert_eq!(said(&instance, "exec user cat /i/srv/data/one"), "first");
    said(&instance, "stop -t 0 user");
    said(&instance, "start user");
    assert_eq!(said(&instance, "exec user cat /i/srv/data/one"), "first");
    said(&instance, "rm -f user");
    clean.assert_settled(&instance);
    said(&instance, "rmi files:1");
}

/// What people write into Compose files to have a volume at a place of theirs, which the image fills if it is empty.
#[test]
fn a_volume_that_is_a_directory_of_the_hosts() {
    let instance = Instance::with_busybox();
    with_files(&instance);
    let clean = Snapshot::take(&instance);
    let place = instance.path().join("place");
    std::fs::create_dir(&place).unwrap();
    let at = place.to_str().unwrap();
    let create = |name: &str, o: &str| {
        said(
            &instance,
            &format!("volume create --opt type=none --opt o={o} --opt device={at} {name}"),
        )
    };
    assert_eq!(create("there", "bind"), "there");
    assert_eq!(create("looked", "bind,ro"), "looked");
    said(
        &instance,
        "run --rm --network none -v there:/srv/data files:1 touch /srv/data/new",
    );
    assert_eq!(std::fs::read_to_string(place.join("one")).unwrap(), "first");
    assert_eq!(
        std::fs::read_to_string(place.join("deep/two")).unwrap(),
        "second"
    );
    assert!(place.join("new").exists());
    // it is not filled again
    std::fs::remove_file(place.join("one")).unwrap();
    said(
        &instance,
        "run --rm --network none -v there:/srv/data files:1 true",
    );
    assert!(!place.join("one").exists());
    let refused = shell(&instance, "-v looked:/v", "ls /v; touch /v/x");
    assert!(
        refused.contains("new") && refused.contains("Read-only"),
        "{refused}"
    );
    let deep = shell(
        &instance,
        "--mount type=volume,src=there,dst=/v,volume-subpath=deep",
        "cat /v/two",
    );
    assert_eq!(deep, "second");
    // options with the mount that makes it
    let mount = format!(
        "--mount type=volume,src=third,dst=/v,volume-opt=type=none,volume-opt=o=bind,volume-opt=device={at}"
    );
    assert!(shell(&instance, &mount, "ls /v").contains("new"));
    let shown = said(&instance, "volume inspect third");
    assert!(
        shown.contains(r#""device":"#) && shown.contains(at),
        "{shown}"
    );
    std::fs::rename(&place, instance.path().join("elsewhere")).unwrap();
    let gone = shell(&instance, "-v there:/v", "true");
    assert!(
        gone.contains("volume there") && gone.contains("No such file"),
        "{gone}"
    );
    for name in ["there", "looked", "third"] {
        assert_eq!(said(&instance, &format!("volume rm {name}")), name);
    }
    assert!(instance.path().join("elsewhere/new").exists());
    clean.assert_settled(&instance);
}

/// One file system in memory for all who use it at a time, empty when the first comes; also after a kill -9.
#[test]
fn a_volume_in_memory_is_shared_by_those_that_run() {
    let mut instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    said(
        &instance,
        "volume create --opt type=tmpfs --opt device=tmpfs --opt o=size=1m,mode=700 mem",
    );
    let run = |instance: &Instance, name: &str| {
        said(
            instance,
            &format!("run -d --name {name} --network none -v mem:/m {BUSYBOX} sleep 1000"),
        )
    };
    run(&instance, "aa");
    said(&instance, "exec aa sh -c echo>/m/x");
    let script = "echo shared >/m/file; stat -c %a /m";
    assert_eq!(
        text(&instance.plimsoll(&["exec", "aa", "sh", "-c", script])),
        "700"
    );
    run(&instance, "bb");
    assert_eq!(said(&instance, "exec bb cat /m/file"), "shared");
    instance.kill9();
    instance.restart();
    run(&instance, "cc");
    assert_eq!(said(&instance, "exec cc cat /m/file"), "shared");
    said(&instance, "rm -f aa bb");
    run(&instance, "dd");
    assert_eq!(said(&instance, "exec dd cat /m/file"), "shared");
    let full = text(&instance.plimsoll(&[
        "exec",
        "dd",
        "sh",
        "-c",
        "dd if=/dev/zero of=/m/big bs=64k count=40",
    ]));
    assert!(full.contains("No space left"), "{full}");
    said(&instance, "rm -f cc dd");
    assert_eq!(shell(&instance, "-v mem:/m", "ls /m"), "");
    said(&instance, "volume rm mem");
    clean.assert_settled(&instance);
}

/// A file with an ext4, as a device.
struct Disk(String);

impl Disk {
    fn new(instance: &Instance) -> Self {
        let file = instance.path().join("disk");
        std::fs::File::create(&file)
            .unwrap()
            .set_len(32 << 20)
            .unwrap();
        let mut mkfs = command("mkfs.ext4");
        let made = mkfs
            .arg("-q")
            .arg(&file)
            .output()
            .expect("apt-get install e2fsprogs");
        assert!(made.status.success(), "{made:?}");
        let looped = command("losetup")
            .args(["--find", "--show"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(looped.status.success(), "{looped:?}");
        Self(text(&looped))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let gone = command("losetup").args(["--detach", &self.0]).output();
        assert!(gone.is_ok_and(|o| o.status.success()), "{} stays", self.0);
    }
}

/// A file system on a device (here a file's), which nobody has mounted on the host.
#[test]
fn a_volume_on_a_device() {
    let instance = Instance::with_busybox();
    with_files(&instance);
    let clean = Snapshot::take(&instance);
    let disk = Disk::new(&instance);
    let device = disk.0.clone();
    said(
        &instance,
        &format!("volume create --opt type=ext4 --opt device={device} disk"),
    );
    said(
        &instance,
        "run --rm --network none -v disk:/srv/data files:1 touch /srv/data/new",
    );
    assert_eq!(
        shell(&instance, "-v disk:/d", "cat /d/one; echo; ls /d/new"),
        "first\n/d/new"
    );
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&device), "{mounts}");
    said(
        &instance,
        "volume create --opt type=xfs --opt device=/dev/null wrong",
    );
    let refused = shell(&instance, "-v wrong:/d", "true");
    assert!(
        refused.contains("open the volume wrong: /dev/null"),
        "{refused}"
    );
    for name in ["disk", "wrong"] {
        said(&instance, &format!("volume rm {name}"));
    }
    drop(disk);
    clean.assert_settled(&instance);
}

#[test]
fn options_of_volumes_are_refused_by_name() {
    let instance = Instance::with_busybox();
    for (options, why) in [
        ("--opt colour=red", "invalid option: \"colour\""),
        ("--opt type=nfs", "missing required option: \"device\""),
        ("--opt size=1g", "quotas of volumes"),
        ("--opt type=none --opt device=/x", "o=bind"),
        ("--opt type=none --opt device=x --opt o=bind", "absolute"),
    ] {
        let refused = said(&instance, &format!("volume create {options} vol"));
        assert!(refused.contains(why), "{options}: {refused}");
    }
    assert!(!said(&instance, "volume ls").contains("vol"));
}

/// The segments and /dev/shm of another container; one that keeps its own to itself is not joined.
#[test]
fn ipc_of_another_container() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    for (name, mode) in [("open", "shareable"), ("closed", "private")] {
        said(
            &instance,
            &format!(
                "run -d --name {name} --network none --ipc {mode} --shm-size 1m {BUSYBOX} sleep 1000"
            ),
        );
    }
    text(&instance.plimsoll(&["exec", "open", "sh", "-c", "echo word >/dev/shm/file"]));
    let seen = shell(
        &instance,
        "--ipc container:open",
        "cat /dev/shm/file; readlink /proc/self/ns/ipc",
    );
    let namespace = said(&instance, "exec open readlink /proc/self/ns/ipc");
    assert_eq!(seen, format!("word\n{namespace}"));
    let refused = shell(&instance, "--ipc container:closed", "true");
    assert!(refused.contains("non-shareable IPC"), "{refused}");
    said(&instance, "rm -f open closed");
    clean.assert_settled(&instance);
}
