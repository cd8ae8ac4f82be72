//! Our own extensions, under `/plimsoll/`.

use api::system::{DoctorFinding, DoctorReport, FsckFinding, FsckReport};
use host::doctor::{self, Depth};
use hyper::StatusCode;

use super::answer::{Answer, ok};
use super::call::Call;
use super::failure::Failure;

/// `POST /plimsoll/fsck?repair=1`
pub(super) async fn fsck(call: Call) -> Answer {
    let (engine, repair) = (call.engine().clone(), call.query.on("repair"));
    let found = call
        .change(async move { engine.fsck(repair).await })
        .await?;
    let checked = |kind: &str| found.checked.get(kind).map_or(0, |n| *n as u64);
    ok(&FsckReport {
        clean: found.problems.iter().all(|p| p.repaired),
        blobs_checked: checked("blob"),
        layers_checked: checked("layer"),
        containers_checked: checked("container"),
        volumes_checked: checked("volume"),
        bytes_checked: found.bytes,
        findings: found
            .problems
            .into_iter()
            .map(|p| FsckFinding {
                kind: p.kind,
                object: p.name,
                problem: p.what,
                repaired: p.repaired,
                advice: p.advice,
            })
            .collect(),
    })
}

/// `GET /plimsoll/doctor`: what only has to be read. `plimsoll doctor` also tries what takes time.
pub(super) async fn doctor(call: Call) -> Answer {
    let facts = std::sync::Arc::clone(&call.engine().config().facts);
    let looked =
        tokio::task::spawn_blocking(move || doctor::Context::gather(&facts, Depth::Quick)).await;
    let failed = |e: &dyn std::error::Error| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, crate::chain(e))
    };
    let context = looked.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
    let report = doctor::examine(&context);
    let word = |tier: doctor::Tier| match tier {
        doctor::Tier::Probe => "probe",
        doctor::Tier::Read => "read",
        doctor::Tier::Build => "build",
    };
    ok(&DoctorReport {
        verdict: report.verdict.to_string(),
        kernel: report.kernel,
        data_root: report.data_root.display().to_string(),
        file_system: report.file_system,
        findings: report
            .findings
            .into_iter()
            .map(|f| DoctorFinding {
                check: f.check.to_owned(),
                tier: word(f.tier).to_owned(),
                verdict: f.verdict.to_string(),
                saw: f.saw,
                advice: f.advice,
                evidence: f.evidence.to_owned(),
            })
            .collect(),
    })
}
