//! The lab proves itself: it loses nothing of a program that does all it should, and sees what each
//! forgotten sync costs.

use std::fs::{self, File};
use std::io::Write;

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    Full,
    NoFileSync,
    NoDirectorySync,
}

fn write_files(dir: &Path, marks: &Marks, care: Care) {
    for i in 0..12_u8 {
        let (tmp, file) = (dir.join("tmp"), dir.join(format!("file-{i}")));
        let mut out = File::create(&tmp).unwrap();
        out.write_all(&content(i)).unwrap();
        if care != Care::NoFileSync {
            out.sync_all().unwrap();
        }
        drop(out);
        fs::rename(&tmp, &file).unwrap();
        if care != Care::NoDirectorySync {
            File::open(dir).unwrap().sync_all().unwrap();
        }
        marks.acknowledge(&i.to_string());
    }
}

fn content(i: u8) -> Vec<u8> {
    vec![i + 1; 9000 + 4096 * usize::from(i)]
}

fn check_files(dir: &Path, marks: &[&str]) -> Result<(), String> {
    for mark in marks {
        let i: u8 = mark.parse().unwrap();
        match fs::read(dir.join(format!("file-{i}"))) {
            Ok(found) if found == content(i) => {}
            Ok(found) if found.len() == content(i).len() => {
                return Err(format!("file-{i} has the right length and other content"));
            }
            Ok(found) => return Err(format!("file-{i} has {} bytes", found.len())),
            Err(e) => return Err(format!("file-{i}: {e}")),
        }
    }
    Ok(())
}

fn losses(file_system: FileSystem, care: Care) -> (usize, Outcome) {
    crate::needs_root();
    enter_private_namespace().unwrap();
    let recording = record(file_system, |dir, marks| write_files(dir, marks, care)).unwrap();
    let (writes, flushes, marks) = recording.counts();
    assert!(writes > 12 && marks == 12, "{writes} writes, {marks} marks");
    let crashes = recording.crashes(60, 1);
    let outcome = recording.replay(&crashes, check_files).unwrap();
    assert!(outcome.states >= 48, "{}", outcome.states);
    (flushes, outcome)
}

fn good(file_system: FileSystem) {
    let (flushes, outcome) = losses(file_system, Care::Full);
    assert!(flushes >= 12, "{flushes} flushes: does the log see them?");
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
}

fn bad(file_system: FileSystem) {
    for care in [Care::NoFileSync, Care::NoDirectorySync] {
        let (_, outcome) = losses(file_system, care);
        assert!(
            outcome.failures.len() * 4 > outcome.states,
            "{care:?}: only {} of {} states lost something: the lab is blind",
            outcome.failures.len(),
            outcome.states
        );
    }
}

#[test]
fn ext4_loses_nothing_of_a_good_program() {
    good(FileSystem::Ext4);
}

#[test]
fn ext4_loses_what_a_bad_program_forgot() {
    bad(FileSystem::Ext4);
}

#[test]
fn xfs_loses_nothing_of_a_good_program() {
    good(FileSystem::Xfs);
}

#[test]
fn xfs_loses_what_a_bad_program_forgot() {
    bad(FileSystem::Xfs);
}

#[test]
fn btrfs_loses_nothing_of_a_good_program() {
    good(FileSystem::Btrfs);
}

#[test]
fn btrfs_loses_what_a_bad_program_forgot() {
    bad(FileSystem::Btrfs);
}
