//! Processes in a container that is there.

use std::time::Duration;

use api::exec::{ExecCreateRequest, ExecInspect, ExecProcessConfig, ExecStartRequest};
use api::stream::{FRAME_HEADER, MULTIPLEXED_STREAM, RAW_STREAM, StdStream, frame_header};
use engine::{ConsoleSize, ExecSpec};
use hyper::StatusCode;

use super::answer::{Answer, created, empty, ok};
use super::call::Call;
use super::containers::console_size;
use super::failure::Failure;
use super::hijack;

pub(super) async fn create(mut call: Call) -> Answer {
    let body: ExecCreateRequest = call.json().await?;
    let argv = body.cmd.unwrap_or_default();
    if argv.is_empty() {
        return Err(Failure::invalid("No exec command specified"));
    }
    hijack::detach_keys(&body.detach_keys)?;
    let spec = ExecSpec {
        argv,
        env: body.env.unwrap_or_default(),
        user: body.user,
        working_dir: body.working_dir,
        privileged: body.privileged,
        tty: body.tty,
        attach_stdin: body.attach_stdin,
        attach_stdout: body.attach_stdout,
        attach_stderr: body.attach_stderr,
        detach_keys: Some(body.detach_keys).filter(|k| !k.is_empty()),
        console_size: body.console_size.and_then(size_of),
    };
    let (engine, id) = (call.engine().clone(), call.param.clone());
    let id = call
        .change(async move { engine.exec_create(&id, spec).await })
        .await?;
    created(&api::IdResponse { id })
}

fn size_of([height, width]: [u32; 2]) -> Option<ConsoleSize> {
    Some(ConsoleSize {
        height: u16::try_from(height).ok()?,
        width: u16::try_from(width).ok()?,
    })
}

/// How long the end of an exec's output is held back for its exit code.
const EXIT_CODE_DEADLINE: Duration = Duration::from_secs(2);

pub(super) async fn start(mut call: Call) -> Answer {
    let body: ExecStartRequest = call.json_or_default().await?;
    let exec = call.engine().exec_inspect(&call.param)?;
    let size = body.console_size.and_then(size_of);
    let size = size.or(exec.spec.console_size);
    let (engine, id) = (call.engine().clone(), call.param.clone());
    if body.detach {
        call.change(async move { engine.exec_start(&id, false, size).await.map(drop) })
            .await?;
        return Ok(empty(StatusCode::OK));
    }
    let container = call.engine().find(&exec.container_id)?;
    if exec.running || exec.exit_code.is_some() {
        return Err(Failure::conflict(format!(
            "exec {} has been started already",
            exec.id
        )));
    }
    if !container.is_running() {
        return Err(Failure::conflict(format!(
            "container {} is not running",
            container.id()
        )));
    }
    let tty = exec.spec.tty;
    let policy = hijack::Policy {
        stdin: exec.spec.attach_stdin,
        tty,
        detach: hijack::detach_keys(exec.spec.detach_keys.as_deref().unwrap_or_default())?,
        // as dockerd: the client says here, and not at the creation, whether it reads frames
        framing: hijack::Framing::between(tty, body.tty),
    };
    let raw = hijack::is_raw(&call.request)?;
    let client = hyper::upgrade::on(&mut call.request);
    let counted = super::Counted::new(&call.api, |api| &api.changes);
    tokio::spawn(async move {
        // as dockerd: first the answer's head, then the start
        let Some(taken) = hijack::Taken::over(client).await else {
            return;
        };
        let (began, ()) = tokio::join!(engine.exec_start(&id, true, size), taken.head_read());
        drop(counted);
        match began {
            Ok(Some(stream)) => {
                // clients ask for the exit code as soon as they see the end
                let settled = engine.exec_ended(&id, EXIT_CODE_DEADLINE);
                taken.copy(stream, policy, settled).await;
            }
            Ok(None) => taken.say(b"").await,
            // clients take the exit code (126, 127) from the exec instance
            Err(error) => taken.say(&said(&error.report(), body.tty)).await,
        }
    });
    let framed = !body.tty && call.version.at_least(42);
    Ok(hijack::response(
        raw,
        if framed {
            MULTIPLEXED_STREAM
        } else {
            RAW_STREAM
        },
    ))
}

/// Why there is no output, as output.
fn said(text: &str, raw: bool) -> Vec<u8> {
    let text = format!("{text}\r\n");
    let mut bytes = Vec::with_capacity(text.len() + FRAME_HEADER);
    if !raw {
        // an error's text fits
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&frame_header(StdStream::Stdout, len));
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

pub(super) async fn resize(call: Call) -> Answer {
    let size = console_size(&call.query)?;
    call.engine().exec_resize(&call.param, size).await?;
    Ok(empty(StatusCode::OK))
}

pub(super) async fn inspect(call: Call) -> Answer {
    let exec = call.engine().exec_inspect(&call.param)?;
    ok(&ExecInspect {
        id: exec.id,
        running: exec.running,
        exit_code: exec.exit_code.map(i64::from),
        process_config: ExecProcessConfig {
            tty: exec.spec.tty,
            entrypoint: exec.spec.argv.first().cloned().unwrap_or_default(),
            arguments: exec.spec.argv.iter().skip(1).cloned().collect(),
            privileged: Some(exec.spec.privileged),
            user: exec.spec.user.clone(),
        },
        open_stdin: exec.spec.attach_stdin,
        open_stderr: exec.spec.attach_stderr,
        open_stdout: exec.spec.attach_stdout,
        can_remove: !exec.running && exec.exit_code.is_some(),
        container_id: exec.container_id,
        detach_keys: exec.spec.detach_keys.clone().unwrap_or_default(),
        pid: exec.pid.into(),
    })
}
