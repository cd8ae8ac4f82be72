//! The container's name server: answers for its networks, asks on for the rest.
//!
//! ```text
//! container --datagram--> answer from the networks' files
//!     |                   or Asked --socket of its own--> server --> container
//!     +--connection--> Stream: the same, questions and answers with their length before them
//! ```
//!
//! Nothing here waits: what is asked on has a socket that is polled and a deadline, and there is a
//! bound to how many there are. A server is asked from a socket of its own, connected to it, under a
//! number of chance: nobody else's words are taken for its answer.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::Server;
use super::poller::{Poller, Slots, Token};
use crate::names::message::{self, NO_ERROR, REFUSED, SERVER_FAILURE, Unanswerable};
use crate::names::zone::{self, Forward};
use crate::names::{Config, Kind, Question, Record, Zone};

/// Where the host's servers are written.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// What is asked on at once: each has a descriptor.
const MOST_ASKED: usize = 128;
const MOST_STREAMS: usize = 16;
/// Questions or answers taken at one event, so that the container's output has its turn.
const TURN: usize = 16;
/// How long a server has, before the next is asked; each is asked twice.
const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);
const LONGEST: usize = u16::MAX as usize;

/// Which of our descriptors an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Datagrams,
    Connections,
    Asked(u32),
    Stream(u32),
}

impl Which {
    /// As a token's parts.
    fn token(self) -> Token {
        match self {
            Self::Datagrams => Token::Names(0, 0),
            Self::Connections => Token::Names(0, 1),
            Self::Asked(at) => Token::Names(at, 2),
            Self::Stream(at) => Token::Names(at, 3),
        }
    }

    pub(super) fn of(index: u32, sub: u8) -> Self {
        match sub {
            0 => Self::Datagrams,
            1 => Self::Connections,
            2 => Self::Asked(index),
            _ => Self::Stream(index),
        }
    }
}

/// Who gets the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    Datagram(SocketAddr),
    /// With the connection's own number: another may have its slot by then.
    Stream(u32, u64),
}

impl Asker {
    /// It has a connection: an answer may be long.
    fn is_stream(self) -> bool {
        matches!(self, Self::Stream(..))
    }
}

/// A connection of the container's.
#[derive(Debug)]
struct Stream {
    number: u64,
    socket: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
    /// It says no more; what it asked is still answered.
    ended: bool,
    idle: Instant,
}

/// A question that was asked on.
#[derive(Debug)]
struct Asked {
    asker: Asker,
    question: Question,
    /// As it goes out, with the number that the server sees.
    query: Vec<u8>,
    /// The asker's own number for it.
    number: [u8; 2],
    servers: Vec<IpAddr>,
    /// Asked from the container's namespace.
    own: bool,
    tries: usize,
    link: Option<Link>,
    /// What a server said that had no answer, in case none has.
    refusal: Option<Vec<u8>>,
    deadline: Instant,
}

/// The way to a server.
#[derive(Debug)]
struct Link {
    socket: OwnedFd,
    /// By connection: what is still to be sent, and what has come.
    stream: Option<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub(super) struct Names {
    /// Where the files of networks are.
    dir: PathBuf,
    /// The container's own.
    file: PathBuf,
    datagrams: OwnedFd,
    connections: OwnedFd,
    asked: Slots<Asked>,
    streams: Slots<Stream>,
    /// The next connection's.
    number: u64,
    /// The server that answered last is asked first.
    preferred: usize,
    /// Turns the addresses of a name that has several.
    turn: usize,
}

/// What of the shim is needed here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    poller: &'a Poller,
    /// The container's network namespace.
    namespace: Option<BorrowedFd<'a>>,
}

impl Server {
    /// From now on the container's questions are answered. `file`: what it may ask.
    pub(super) fn serve_names(&mut self, file: PathBuf, sockets: [OwnedFd; 2]) -> io::Result<()> {
        if self.names.is_some() {
            // the first engine's are in use, and do the same
            return Ok(());
        }
        let names = Names::new(file, sockets);
        let poller = &self.poller;
        let (datagrams, connections) = (Which::Datagrams.token(), Which::Connections.token());
        poller.add(&names.datagrams, datagrams, EventFlags::IN)?;
        poller.add(&names.connections, connections, EventFlags::IN)?;
        self.names = Some(Box::new(names));
        Ok(())
    }

    pub(super) fn name_server(&mut self, which: Which, flags: EventFlags) {
        self.with_names(|names, context| names.ready(context, which, flags));
    }

    pub(super) fn expire_names(&mut self) {
        self.with_names(Names::expire);
    }

    fn with_names(&mut self, f: impl FnOnce(&mut Names, Context<'_>)) {
        let context = Context {
            poller: &self.poller,
            namespace: self.held.first().map(AsFd::as_fd),
        };
        if let Some(names) = self.names.as_deref_mut() {
            f(names, context);
        }
    }
}

impl Names {
    fn new(file: PathBuf, [datagrams, connections]: [OwnedFd; 2]) -> Self {
        Self {
            dir: file.parent().map(PathBuf::from).unwrap_or_default(),
            file,
            datagrams,
            connections,
            asked: Slots::new(),
            streams: Slots::new(),
            number: 0,
            preferred: 0,
            turn: 0,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let asked = self.asked.iter().map(|(_, a)| a.deadline);
        let streams = self.streams.iter().map(|(_, s)| s.idle);
        asked.chain(streams).min()
    }

    fn ready(&mut self, context: Context<'_>, which: Which, flags: EventFlags) {
        match which {
            Which::Datagrams => self.take_datagrams(context),
            Which::Connections => self.accept(context),
            Which::Asked(at) => self.hear(context, at),
            Which::Stream(at) => self.stream_ready(context, at, flags),
        }
    }

    fn expire(&mut self, context: Context<'_>) {
        let now = Instant::now();
        let late = |at: &Instant| *at <= now;
        let asked = self.asked.iter().filter(|(_, a)| late(&a.deadline));
        let asked: Vec<u32> = asked.map(|(at, _)| at).collect();
        for at in asked {
            self.ask_next(context, at);
        }
        let idle = self.streams.iter().filter(|(_, s)| late(&s.idle));
        let idle: Vec<u32> = idle.map(|(at, _)| at).collect();
        for at in idle {
            self.drop_stream(context, at);
        }
    }

    fn take_datagrams(&mut self, context: Context<'_>) {
        // a question is short; what is longer is cut, and then no question
        let mut buffer = [0; 1024];
        for _ in 0..TURN {
            let got = rustix::net::recvfrom(&self.datagrams, &mut buffer, RecvFlags::DONTWAIT);
            let (length, from) = match got {
                Ok((length, _, Some(from))) => (length, SocketAddr::try_from(from)),
                Err(Errno::INTR) => continue,
                Ok(_) | Err(_) => return,
            };
            if let Ok(from) = from {
                self.question(context, &buffer[..length], Asker::Datagram(from));
            }
        }
    }

    fn question(&mut self, context: Context<'_>, bytes: &[u8], asker: Asker) {
        let question = match Question::parse(bytes) {
            Ok(question) => question,
            Err(Unanswerable::Silence) => return,
            Err(Unanswerable::Code(code)) => {
                return self.reply(context, asker, &message::bare(bytes, code));
            }
        };
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let config = Config::parse(&text);
        if let Some(records) = self.known(&config, &question) {
            let answer = question.answer(bytes, NO_ERROR, &records, asker.is_stream());
            return self.reply(context, asker, &answer);
        }
        self.ask_on(context, config, question, bytes, asker);
    }

    /// What the container's networks say; absent: it is none of theirs. A name that is theirs has an
    /// answer to each question, though it may be an empty one: nobody else is asked about it.
    fn known(&mut self, config: &Config, question: &Question) -> Option<Vec<Record>> {
        let name = question.name.as_deref()?;
        let texts = config
            .networks
            .iter()
            .map(|id| fs::read_to_string(self.dir.join(zone::file_name(id))).unwrap_or_default());
        let texts: Vec<String> = texts.collect();
        let mut zones = texts.iter().map(|t| Zone::new(t));
        if let Some(address) = question.reversed() {
            let name = zones.find_map(|z| z.name_at(address));
            return name.map(|n| vec![Record::Pointer(n)]);
        }
        let real = config.real(name);
        let mut found: Vec<IpAddr> = zones.flat_map(|z| z.addresses(real)).collect();
        if found.is_empty() {
            // the resolver is to try it with its search list
            let relative = config.absolute && !name.contains('.');
            let asked = matches!(question.kind, Kind::A | Kind::Aaaa);
            return (relative && asked).then(Vec::new);
        }
        let wanted = match question.kind {
            Kind::A => Some(true),
            Kind::Aaaa => Some(false),
            Kind::Ptr | Kind::Other => None,
        };
        found.retain(|a| Some(a.is_ipv4()) == wanted);
        if !found.is_empty() {
            self.turn = self.turn.wrapping_add(1);
            let first = self.turn % found.len();
            found.rotate_left(first);
        }
        Some(found.into_iter().map(Record::Address).collect())
    }

    fn ask_on(
        &mut self,
        context: Context<'_>,
        config: Config,
        question: Question,
        bytes: &[u8],
        asker: Asker,
    ) {
        let (servers, own) = match config.forward {
            Forward::Nowhere => (Vec::new(), false),
            Forward::Own(servers) => (servers, true),
            Forward::Host => {
                let text = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
                (text.lines().filter_map(zone::server).collect(), false)
            }
        };
        if servers.is_empty() || self.asked.vacant() as usize >= MOST_ASKED {
            let answer = question.answer(bytes, SERVER_FAILURE, &[], asker.is_stream());
            return self.reply(context, asker, &answer);
        }
        let at = self.asked.insert(Asked {
            asker,
            question,
            query: bytes.to_vec(),
            number: [bytes[0], bytes[1]],
            servers,
            own,
            tries: 0,
            link: None,
            refusal: None,
            deadline: Instant::now() + PATIENCE,
        });
        self.ask_next(context, at);
    }

    /// The next server, or the word that none answers.
    fn ask_next(&mut self, context: Context<'_>, at: u32) {
        let preferred = self.preferred;
        loop {
            let Some(asked) = self.asked.get_mut(at) else {
                return;
            };
            if let Some(link) = asked.link.take() {
                context.poller.remove(&link.socket);
            }
            if asked.tries >= asked.servers.len() * ROUNDS {
                return self.conclude(context, at, None);
            }
            let server = asked.servers[(preferred + asked.tries) % asked.servers.len()];
            asked.tries += 1;
            asked.deadline = Instant::now() + PATIENCE;
            if asked.ask(context, server, at).is_ok() {
                return;
            }
        }
    }

    /// Something has come from a server, or its socket can be written.
    fn hear(&mut self, context: Context<'_>, at: u32) {
        for _ in 0..TURN {
            let Some(asked) = self.asked.get_mut(at) else {
                return;
            };
            let reply = match asked.receive(context, at) {
                Ok(Some(reply)) => reply,
                Ok(None) => return,
                // nobody is there, or it hung up
                Err(_) => return self.ask_next(context, at),
            };
            if !asked.question.is_answered_by(&asked.query, &reply) {
                if asked.link.as_ref().is_some_and(|l| l.stream.is_some()) {
                    return self.ask_next(context, at);
                }
                continue;
            }
            if matches!(message::code(&reply), SERVER_FAILURE | REFUSED) {
                asked.refusal = Some(reply);
                // each once: what a server has refused it will refuse again
                if asked.tries >= asked.servers.len() {
                    return self.conclude(context, at, None);
                }
                return self.ask_next(context, at);
            }
            let count = asked.servers.len();
            self.preferred = (self.preferred + asked.tries - 1) % count;
            return self.conclude(context, at, Some(reply));
        }
    }

    fn conclude(&mut self, context: Context<'_>, at: u32, reply: Option<Vec<u8>>) {
        let Some(asked) = self.asked.remove(at) else {
            return;
        };
        if let Some(link) = &asked.link {
            context.poller.remove(&link.socket);
        }
        let mut reply = reply.or(asked.refusal).unwrap_or_else(|| {
            let (question, stream) = (&asked.question, asked.asker.is_stream());
            question.answer(&asked.query, SERVER_FAILURE, &[], stream)
        });
        reply[..2].copy_from_slice(&asked.number);
        self.reply(context, asked.asker, &reply);
    }

    fn reply(&mut self, context: Context<'_>, asker: Asker, answer: &[u8]) {
        match asker {
            Asker::Datagram(to) => {
                // one that does not take it asks again
                let _ = rustix::net::sendto(&self.datagrams, answer, SendFlags::DONTWAIT, &to);
            }
            Asker::Stream(at, number) => {
                let Some(stream) = self.streams.get_mut(at).filter(|s| s.number == number) else {
                    return;
                };
                put(&mut stream.output, answer);
                self.flush(context, at);
            }
        }
    }

    fn accept(&mut self, context: Context<'_>) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..TURN {
            let Ok(socket) = rustix::net::accept_with(&self.connections, flags) else {
                return;
            };
            let at = self.streams.vacant();
            let token = Which::Stream(at).token();
            if at as usize >= MOST_STREAMS
                || context.poller.add(&socket, token, EventFlags::IN).is_err()
            {
                continue;
            }
            self.number += 1;
            self.streams.insert(Stream {
                number: self.number,
                socket,
                input: Vec::new(),
                output: Vec::new(),
                ended: false,
                idle: Instant::now() + IDLE,
            });
        }
    }

    fn stream_ready(&mut self, context: Context<'_>, at: u32, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.flush(context, at);
        }
        let Some(stream) = self.streams.get_mut(at) else {
            return;
        };
        if flags.intersects(EventFlags::ERR) || stream.read().is_err() {
            return self.drop_stream(context, at);
        }
        let number = stream.number;
        for _ in 0..TURN {
            let next = self.streams.get_mut(at).and_then(|s| take(&mut s.input));
            let Some(bytes) = next else { break };
            self.question(context, &bytes, Asker::Stream(at, number));
        }
        self.flush(context, at);
    }

    /// Sends what can be sent, and asks to be told when more can.
    fn flush(&mut self, context: Context<'_>, at: u32) {
        let Some(stream) = self.streams.get_mut(at) else {
            return;
        };
        let waiting = stream.output.len();
        if send(&stream.socket, &mut stream.output).is_err() {
            return self.drop_stream(context, at);
        }
        if stream.output.len() < waiting {
            stream.idle = Instant::now() + IDLE;
        }
        let number = stream.number;
        let waits = |(_, a): (u32, &Asked)| a.asker == Asker::Stream(at, number);
        let done = stream.ended && stream.output.is_empty() && !self.asked.iter().any(waits);
        if done {
            return self.drop_stream(context, at);
        }
        let mut interest = EventFlags::empty();
        // what is not taken keeps it from asking more
        interest.set(
            EventFlags::IN,
            !stream.ended && stream.output.len() < LONGEST,
        );
        interest.set(EventFlags::OUT, !stream.output.is_empty());
        let token = Which::Stream(at).token();
        context.poller.set(stream.socket.as_fd(), token, interest);
    }

    fn drop_stream(&mut self, context: Context<'_>, at: u32) {
        if let Some(stream) = self.streams.remove(at) {
            context.poller.remove(&stream.socket);
        }
    }
}

impl Stream {
    fn read(&mut self) -> Result<(), Errno> {
        let mut buffer = [0; 4096];
        // more than one whole message waits in the kernel
        while !self.ended && self.input.len() < LONGEST {
            match rustix::net::recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.ended = true,
                Ok((got, _)) => {
                    self.input.extend_from_slice(&buffer[..got]);
                    self.idle = Instant::now() + IDLE;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// A message as it goes over a connection. source: RFC 1035 section 4.2.2.
fn put(output: &mut Vec<u8>, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap_or(0);
    output.extend_from_slice(&length.to_be_bytes());
    output.extend_from_slice(message);
}

/// Sends what the kernel takes.
fn send(socket: &OwnedFd, output: &mut Vec<u8>) -> Result<(), Errno> {
    while !output.is_empty() {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(socket, output, flags) {
            Ok(sent) => drop(output.drain(..sent)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The first whole message of a connection's bytes.
fn take(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(input.first_chunk().copied()?));
    let message = input.get(2..2 + length)?.to_vec();
    drop(input.drain(..2 + length));
    Some(message)
}

impl Asked {
    /// By connection where the asker's is one: the answer may be long.
    fn ask(&mut self, context: Context<'_>, server: IpAddr, at: u32) -> io::Result<()> {
        let mut number = [0; 2];
        rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())?;
        self.query[..2].copy_from_slice(&number);
        let stream = self.asker.is_stream();
        let namespace = if self.own { context.namespace } else { None };
        if self.own && namespace.is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let socket = socket(server, stream, namespace)?;
        match rustix::net::connect(&socket, &SocketAddr::new(server, PORT)) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        let mut interest = EventFlags::IN;
        let stream = if stream {
            interest |= EventFlags::OUT;
            let mut out = Vec::new();
            put(&mut out, &self.query);
            Some((out, Vec::new()))
        } else {
            rustix::net::send(&socket, &self.query, SendFlags::DONTWAIT)?;
            None
        };
        let token = Which::Asked(at).token();
        context.poller.add(&socket, token, interest)?;
        self.link = Some(Link { socket, stream });
        Ok(())
    }

    /// A whole message, if there is one.
    fn receive(&mut self, context: Context<'_>, at: u32) -> io::Result<Option<Vec<u8>>> {
        let Some(link) = &mut self.link else {
            return Ok(None);
        };
        let Some((out, input)) = &mut link.stream else {
            return datagram(&link.socket);
        };
        match send(&link.socket, out) {
            Ok(()) if out.is_empty() => {}
            // full, or not yet connected
            Ok(()) | Err(Errno::NOTCONN) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let token = Which::Asked(at).token();
        context
            .poller
            .set(link.socket.as_fd(), token, EventFlags::IN);
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = take(input) {
                return Ok(Some(message));
            }
            match rustix::net::recv(&link.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((got, _)) => input.extend_from_slice(&buffer[..got]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn datagram(socket: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = [MaybeUninit::uninit(); LONGEST];
    loop {
        match rustix::net::recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(((got, _), _)) => return Ok(Some(got.to_vec())),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

/// One that does not block, of a namespace or of our own.
fn socket(to: IpAddr, stream: bool, namespace: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let kind = if stream {
        SocketType::STREAM
    } else {
        SocketType::DGRAM
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let make = || Ok(rustix::net::socket_with(family, kind, flags, None)?);
    match namespace {
        None => make(),
        Some(there) => sys::process::in_network(there, make),
    }
}
