//! The part of Go's text/template that people use with `--format`.
//!
//! ```text
//! template := text | "{{" action "}}" ...            "{{-" and "-}}" trim white space
//! action   := pipeline | "if" | "else" | "else if" | "range" | "with" | "end" | comment
//! pipeline := [ "$x" [ "," "$y" ] ":=" | "=" ] command { "|" command }
//! command  := operand { operand }
//! operand  := "." | ".Field.Field" | "$x.Field" | literal | function | "(" pipeline ")" [ .Field ]
//! ```
//!
//! Values are JSON. Objects print as Go prints maps. A field that is not there is an error, as it
//! is for Docker, because a script must not take a typing error for an empty answer. Names differ
//! in case only between Docker's Go fields and its JSON (`.ID`, `Id`), so both are found.
//! source: pkg.go.dev/text/template, docker/cli templates (json, split, join, title, lower, upper,
//! pad, truncate).

use std::fmt;

use serde_json::Value;

/// A template that could not be read or applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TemplateError {
    message: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "template parsing error: template: {}", self.message)
    }
}

impl std::error::Error for TemplateError {}

fn error<T>(message: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError {
        message: message.into(),
    })
}

/// A method with arguments on the value itself: `.Label "com.example"`.
pub(crate) type Method<'a> = &'a dyn Fn(&Value, &str, &[Value]) -> Option<Value>;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    body: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Pipeline),
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
}

#[derive(Debug, Default)]
struct Pipeline {
    /// `$i, $e :=`
    variables: Vec<String>,
    commands: Vec<Vec<Operand>>,
    column: usize,
}

#[derive(Debug)]
enum Operand {
    /// `.`, or fields of it.
    Dot(Vec<String>),
    Variable(String, Vec<String>),
    Literal(Value),
    Function(String),
    Group(Pipeline, Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Dot,
    Field(String),
    Variable(String),
    Literal(Value),
    Word(String),
    Pipe,
    Open,
    Close,
    Comma,
    Assign,
    Space,
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        let pieces = split(text)?;
        let mut pieces = pieces.into_iter().peekable();
        let (body, end) = block(&mut pieces)?;
        match end {
            Stop::Eof => Ok(Self { body }),
            Stop::End => error(":1: unexpected {{end}}"),
            Stop::Else(_) => error(":1: unexpected {{else}}"),
        }
    }

    pub(crate) fn render(&self, dot: &Value) -> Result<String, TemplateError> {
        self.render_with(dot, &|_, _, _| None)
    }

    pub(crate) fn render_with(
        &self,
        dot: &Value,
        methods: Method<'_>,
    ) -> Result<String, TemplateError> {
        let mut run = Run {
            out: String::new(),
            variables: vec![("$".to_owned(), dot.clone())],
            methods,
        };
        run.block(&self.body, dot)?;
        Ok(run.out)
    }
}

enum Piece {
    Text(String),
    Action(Vec<Token>, usize),
}

/// Cuts the text into what is printed and what is done.
fn split(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut trim_next = false;
    while let Some(open) = text[at..].find("{{").map(|i| i + at) {
        let mut before = &text[at..open];
        if trim_next {
            before = before.trim_start();
        }
        let mut inner = open + 2;
        if text[inner..].starts_with("- ") {
            before = before.trim_end();
            inner += 2;
        }
        pieces.push(Piece::Text(before.to_owned()));
        let end = action_end(text, inner)?;
        let mut action = &text[inner..end];
        trim_next = action.ends_with(" -");
        if trim_next {
            action = &action[..action.len() - 2];
        }
        let trimmed = action.trim();
        if !(trimmed.starts_with("/*") && trimmed.ends_with("*/")) {
            pieces.push(Piece::Action(lex(action)?, inner));
        }
        at = end + 2;
    }
    let rest = &text[at..];
    pieces.push(Piece::Text(
        if trim_next { rest.trim_start() } else { rest }.to_owned(),
    ));
    Ok(pieces)
}

/// Where the action that starts at `from` has its `}}`, quotes regarded.
fn action_end(text: &str, from: usize) -> Result<usize, TemplateError> {
    let bytes = text.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Ok(at),
            b'`' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'`' {
                    at += 1;
                }
            }
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            _ => {}
        }
        at += 1;
    }
    error(":1: unclosed action")
}

fn lex(action: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = action;
    while let Some(c) = rest.chars().next() {
        let (token, used) = match c {
            ' ' | '\t' | '\n' | '\r' => (Token::Space, 1),
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            ':' if rest.starts_with(":=") => (Token::Assign, 2),
            '=' => (Token::Assign, 1),
            '"' | '`' | '\'' => lex_quoted(rest, c)?,
            '.' => {
                let name = word(&rest[1..]);
                if name.is_empty() {
                    (Token::Dot, 1)
                } else {
                    (Token::Field(name.to_owned()), 1 + name.len())
                }
            }
            '$' => {
                let name = word(&rest[1..]);
                (Token::Variable(format!("${name}")), 1 + name.len())
            }
            '0'..='9' | '-' | '+' => lex_number(rest)?,
            _ if c.is_alphabetic() || c == '_' => {
                let name = word(rest);
                let token = match name {
                    "true" => Token::Literal(Value::Bool(true)),
                    "false" => Token::Literal(Value::Bool(false)),
                    "nil" => Token::Literal(Value::Null),
                    _ => Token::Word(name.to_owned()),
                };
                (token, name.len())
            }
            _ => return error(format!(":1: unexpected {c:?} in command")),
        };
        tokens.push(token);
        rest = &rest[used..];
    }
    Ok(tokens)
}

fn word(text: &str) -> &str {
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    &text[..end]
}

fn lex_quoted(text: &str, quote: char) -> Result<(Token, usize), TemplateError> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => {
                let value = match (quote, out.chars().next()) {
                    ('\'', Some(one)) => Value::from(u32::from(one)),
                    _ => Value::String(out),
                };
                return Ok((Token::Literal(value), at + 1));
            }
            '\\' if quote != '`' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, 'r')) => out.push('\r'),
                Some((_, other)) => out.push(other),
                None => break,
            },
            _ => out.push(c),
        }
    }
    error(":1: unterminated quoted string")
}

fn lex_number(text: &str) -> Result<(Token, usize), TemplateError> {
    let end = text
        .char_indices()
        .skip(1)
        .find(|(_, c)| !(c.is_ascii_alphanumeric() || *c == '.'))
        .map_or(text.len(), |(i, _)| i);
    let number = &text[..end];
    let value = number
        .parse::<i64>()
        .map(Value::from)
        .or_else(|_| number.parse::<f64>().map(Value::from));
    match value {
        Ok(v) => Ok((Token::Literal(v), end)),
        Err(_) => error(format!(":1: bad number syntax: {number:?}")),
    }
}

enum Stop {
    Eof,
    End,
    /// The tokens after `else`: `if ...` or nothing.
    Else(Vec<Token>),
}

type Pieces = std::iter::Peekable<std::vec::IntoIter<Piece>>;

fn block(pieces: &mut Pieces) -> Result<(Vec<Node>, Stop), TemplateError> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let (tokens, column) = match piece {
            Piece::Text(text) => {
                if !text.is_empty() {
                    nodes.push(Node::Text(text));
                }
                continue;
            }
            Piece::Action(tokens, column) => (tokens, column),
        };
        let tokens = trim(&tokens);
        let Some(first) = tokens.first() else {
            return error(":1: missing value for command");
        };
        match first {
            Token::Word(w) if w == "end" => return Ok((nodes, Stop::End)),
            Token::Word(w) if w == "else" => {
                return Ok((nodes, Stop::Else(trim(&tokens[1..]).to_vec())));
            }
            Token::Word(w) if matches!(w.as_str(), "if" | "with" | "range") => {
                let head = pipeline(trim(&tokens[1..]), column)?;
                nodes.push(control(w, head, pieces)?);
            }
            _ => nodes.push(Node::Print(pipeline(tokens, column)?)),
        }
    }
    Ok((nodes, Stop::Eof))
}

fn control(word: &str, head: Pipeline, pieces: &mut Pieces) -> Result<Node, TemplateError> {
    let (body, mut end) = block(pieces)?;
    let mut arms = vec![(head, body)];
    let mut otherwise = Vec::new();
    loop {
        match end {
            Stop::End => break,
            Stop::Eof => return error(":1: unexpected EOF"),
            Stop::Else(tokens) => {
                let (next, after) = block(pieces)?;
                match tokens.first() {
                    None => otherwise = next,
                    Some(Token::Word(w)) if w == "if" && word == "if" => {
                        arms.push((pipeline(trim(&tokens[1..]), 0)?, next));
                    }
                    Some(_) => return error(":1: unexpected words after {{else}}"),
                }
                end = after;
            }
        }
    }
    if word == "if" {
        return Ok(Node::If(arms, otherwise));
    }
    let (head, body) = arms.pop().expect("made with one arm");
    Ok(if word == "with" {
        Node::With(head, body, otherwise)
    } else {
        Node::Range(head, body, otherwise)
    })
}

fn trim(tokens: &[Token]) -> &[Token] {
    let start = tokens
        .iter()
        .position(|t| *t != Token::Space)
        .unwrap_or(tokens.len());
    let end = tokens
        .iter()
        .rposition(|t| *t != Token::Space)
        .map_or(start, |i| i + 1);
    &tokens[start..end]
}

fn pipeline(tokens: &[Token], column: usize) -> Result<Pipeline, TemplateError> {
    let mut result = Pipeline {
        column,
        ..Pipeline::default()
    };
    let mut tokens = tokens;
    // assignments stand at the front: `$x :=`, `$i, $e :=`
    if let Some(at) = tokens.iter().position(|t| *t == Token::Assign) {
        for token in &tokens[..at] {
            match token {
                Token::Variable(name) => result.variables.push(name.clone()),
                Token::Space | Token::Comma => {}
                _ => return error(":1: unexpected := in command"),
            }
        }
        tokens = trim(&tokens[at + 1..]);
    }
    let mut cursor = tokens.iter().peekable();
    loop {
        let (command, more) = command(&mut cursor)?;
        if command.is_empty() {
            return error(":1: missing value for command");
        }
        result.commands.push(command);
        if !more {
            break;
        }
    }
    if cursor.peek().is_some() {
        return error(":1: unexpected \")\" in command");
    }
    Ok(result)
}

type Cursor<'a> = std::iter::Peekable<std::slice::Iter<'a, Token>>;

/// One command, and whether a pipe follows it.
fn command(cursor: &mut Cursor<'_>) -> Result<(Vec<Operand>, bool), TemplateError> {
    let mut operands = Vec::new();
    while let Some(token) = cursor.peek() {
        match token {
            Token::Space => {
                cursor.next();
            }
            Token::Pipe => {
                cursor.next();
                return Ok((operands, true));
            }
            Token::Close => break,
            _ => operands.push(operand(cursor)?),
        }
    }
    Ok((operands, false))
}

fn operand(cursor: &mut Cursor<'_>) -> Result<Operand, TemplateError> {
    let token = cursor.next().cloned();
    Ok(match token {
        Some(Token::Dot) => Operand::Dot(fields(cursor)),
        Some(Token::Field(name)) => {
            let mut path = vec![name];
            path.extend(fields(cursor));
            Operand::Dot(path)
        }
        Some(Token::Variable(name)) => Operand::Variable(name, fields(cursor)),
        Some(Token::Literal(value)) => Operand::Literal(value),
        Some(Token::Word(name)) => {
            if !FUNCTIONS.contains(&name.as_str()) {
                return error(format!(":1: function {name:?} not defined"));
            }
            Operand::Function(name)
        }
        Some(Token::Open) => {
            let mut inner = Pipeline::default();
            loop {
                let (command, more) = command(cursor)?;
                inner.commands.push(command);
                if !more {
                    break;
                }
            }
            if cursor.next() != Some(&Token::Close) {
                return error(":1: unclosed left paren");
            }
            Operand::Group(inner, fields(cursor))
        }
        other => return error(format!(":1: unexpected {other:?} in operand")),
    })
}

fn fields(cursor: &mut Cursor<'_>) -> Vec<String> {
    let mut path = Vec::new();
    while let Some(Token::Field(name)) = cursor.peek() {
        path.push(name.clone());
        cursor.next();
    }
    path
}

const FUNCTIONS: [&str; 23] = [
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "len", "json", "join",
    "split", "upper", "lower", "title", "println", "printf", "print", "pad", "truncate", "slice",
];

struct Run<'a> {
    out: String,
    variables: Vec<(String, Value)>,
    methods: Method<'a>,
}

impl Run<'_> {
    fn block(&mut self, nodes: &[Node], dot: &Value) -> Result<(), TemplateError> {
        let depth = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
        }
        self.variables.truncate(depth);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipe) => {
                let value = self.pipeline(pipe, dot)?;
                if let Some(name) = pipe.variables.first() {
                    self.assign(name, value);
                } else {
                    self.out.push_str(&show(&value));
                }
            }
            Node::If(arms, otherwise) => {
                for (test, body) in arms {
                    if self.scoped(test, dot)? {
                        return self.block(body, dot);
                    }
                }
                self.block(otherwise, dot)?;
            }
            Node::With(test, body, otherwise) => {
                let value = self.pipeline(test, dot)?;
                if truth(&value) {
                    let depth = self.variables.len();
                    if let Some(name) = test.variables.first() {
                        self.variables.push((name.clone(), value.clone()));
                    }
                    self.block(body, &value)?;
                    self.variables.truncate(depth);
                } else {
                    self.block(otherwise, dot)?;
                }
            }
            Node::Range(head, body, otherwise) => self.range(head, body, otherwise, dot)?,
        }
        Ok(())
    }

    fn scoped(&mut self, test: &Pipeline, dot: &Value) -> Result<bool, TemplateError> {
        let value = self.pipeline(test, dot)?;
        if let Some(name) = test.variables.first() {
            self.assign(name, value.clone());
        }
        Ok(truth(&value))
    }

    fn assign(&mut self, name: &str, value: Value) {
        match self.variables.iter_mut().rev().find(|(n, _)| n == name) {
            Some((_, slot)) => *slot = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    fn range(
        &mut self,
        head: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<(), TemplateError> {
        let items: Vec<(Value, Value)> = match self.pipeline(head, dot)? {
            Value::Array(list) => list
                .into_iter()
                .enumerate()
                .map(|(i, v)| (Value::from(i), v))
                .collect(),
            Value::Object(map) => {
                let mut pairs: Vec<(String, Value)> = map.into_iter().collect();
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
                pairs
                    .into_iter()
                    .map(|(k, v)| (Value::String(k), v))
                    .collect()
            }
            Value::Null => Vec::new(),
            other => return error(format!(":1: range can't iterate over {}", show(&other))),
        };
        if items.is_empty() {
            return self.block(otherwise, dot);
        }
        for (key, value) in items {
            let depth = self.variables.len();
            match head.variables.as_slice() {
                [] => {}
                [one] => self.variables.push((one.clone(), value.clone())),
                [first, second, ..] => {
                    self.variables.push((first.clone(), key));
                    self.variables.push((second.clone(), value.clone()));
                }
            }
            self.block(body, &value)?;
            self.variables.truncate(depth);
        }
        Ok(())
    }

    fn pipeline(&self, pipe: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut piped: Option<Value> = None;
        for command in &pipe.commands {
            piped = Some(self.command(command, dot, piped, pipe.column)?);
        }
        Ok(piped.unwrap_or(Value::Null))
    }

    fn command(
        &self,
        operands: &[Operand],
        dot: &Value,
        piped: Option<Value>,
        column: usize,
    ) -> Result<Value, TemplateError> {
        let Some((first, rest)) = operands.split_first() else {
            return error(":1: missing value for command");
        };
        if rest.is_empty() && piped.is_none() && !matches!(first, Operand::Function(_)) {
            return self.operand(first, dot, column);
        }
        let mut args = rest
            .iter()
            .map(|o| self.operand(o, dot, column))
            .collect::<Result<Vec<_>, _>>()?;
        args.extend(piped);
        match first {
            Operand::Function(name) => call(name, &args),
            Operand::Dot(path) | Operand::Variable(_, path) if !path.is_empty() => {
                let (name, parents) = path.split_last().expect("not empty by the guard");
                let base = match first {
                    Operand::Variable(variable, _) => self.variable(variable)?,
                    _ => dot.clone(),
                };
                let receiver = self.walk(&base, parents, column)?;
                match (self.methods)(&receiver, name, &args) {
                    Some(value) => Ok(value),
                    None => error(format!(
                        ":1:{column}: executing \"\" at <.{name}>: {name} has arguments but cannot be invoked as function"
                    )),
                }
            }
            _ => error(format!(":1:{column}: can't give argument to non-function")),
        }
    }

    fn operand(
        &self,
        operand: &Operand,
        dot: &Value,
        column: usize,
    ) -> Result<Value, TemplateError> {
        match operand {
            Operand::Dot(path) => self.walk(dot, path, column),
            Operand::Variable(name, path) => self.walk(&self.variable(name)?, path, column),
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Function(name) => call(name, &[]),
            Operand::Group(pipe, path) => self.walk(&self.pipeline(pipe, dot)?, path, column),
        }
    }

    fn variable(&self, name: &str) -> Result<Value, TemplateError> {
        match self.variables.iter().rev().find(|(n, _)| n == name) {
            Some((_, value)) => Ok(value.clone()),
            None => error(format!(":1: undefined variable {name:?}")),
        }
    }

    fn walk(&self, start: &Value, path: &[String], column: usize) -> Result<Value, TemplateError> {
        let mut at = start;
        let mut made;
        for name in path {
            match at {
                Value::Object(map) => {
                    let found = map.get(name).or_else(|| {
                        map.iter()
                            .find(|(k, _)| k.eq_ignore_ascii_case(name))
                            .map(|(_, v)| v)
                    });
                    match found {
                        Some(value) => at = value,
                        None => match (self.methods)(at, name, &[]) {
                            Some(value) => {
                                made = value;
                                at = &made;
                            }
                            None => {
                                return error(format!(
                                    ":1:{column}: executing \"\" at <.{}>: map has no entry for key \"{name}\"",
                                    path.join(".")
                                ));
                            }
                        },
                    }
                }
                Value::Null => {
                    return error(format!(
                        ":1:{column}: executing \"\" at <.{}>: nil pointer evaluating interface {{}}.{name}",
                        path.join(".")
                    ));
                }
                other => {
                    return error(format!(
                        ":1:{column}: executing \"\" at <.{}>: can't evaluate field {name} in type {}",
                        path.join("."),
                        type_name(other)
                    ));
                }
            }
        }
        Ok(at.clone())
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As Go's `%v`.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => s.clone(),
        Value::Array(list) => format!(
            "[{}]",
            list.iter().map(show_inner).collect::<Vec<_>>().join(" ")
        ),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map
                .iter()
                .map(|(k, v)| format!("{k}:{}", show_inner(v)))
                .collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
    }
}

fn show_inner(value: &Value) -> String {
    if value.is_null() {
        "<nil>".into()
    } else {
        show(value)
    }
}

fn call(name: &str, args: &[Value]) -> Result<Value, TemplateError> {
    arity(name, args.len())?;
    Ok(match name {
        "and" => pick(args, |v| !truth(v)),
        "or" => pick(args, truth),
        "not" => Value::Bool(!truth(&args[0])),
        "eq" => Value::Bool(
            args[1..]
                .iter()
                .any(|v| order(&args[0], v) == Some(std::cmp::Ordering::Equal)),
        ),
        "ne" | "lt" | "le" | "gt" | "ge" => compare(name, &args[0], &args[1])?,
        "index" => index(args)?,
        "slice" => slice(args)?,
        "len" => length(&args[0])?,
        "join" => join(&args[0], &show(&args[1]))?,
        "split" => {
            let separator = show(&args[1]);
            Value::Array(
                show(&args[0])
                    .split(separator.as_str())
                    .map(|s| Value::String(s.to_owned()))
                    .collect(),
            )
        }
        _ => Value::String(text_function(name, args)?),
    })
}

/// How many arguments each function takes.
fn arity(name: &str, got: usize) -> Result<(), TemplateError> {
    let (low, high) = match name {
        "not" | "len" | "json" | "upper" | "lower" | "title" => (1, 1),
        "ne" | "lt" | "le" | "gt" | "ge" | "join" | "split" | "truncate" => (2, 2),
        "pad" => (3, 3),
        "eq" => (2, usize::MAX),
        "and" | "or" | "index" | "slice" | "printf" => (1, usize::MAX),
        _ => (0, usize::MAX),
    };
    if (low..=high).contains(&got) {
        return Ok(());
    }
    error(format!(
        ":1: wrong number of args for {name}: want {}{low} got {got}",
        if low == high { "" } else { "at least " }
    ))
}

/// Functions that give a text.
fn text_function(name: &str, args: &[Value]) -> Result<String, TemplateError> {
    let number = |i: usize| {
        args[i]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(0)
    };
    let words = || args.iter().map(show).collect::<Vec<_>>().join(" ");
    Ok(match name {
        "json" => args[0].to_string(),
        "upper" => show(&args[0]).to_uppercase(),
        "lower" => show(&args[0]).to_lowercase(),
        "title" => title(&show(&args[0])),
        "print" => words(),
        "println" => words() + "\n",
        "printf" => printf(args)?,
        "pad" => format!(
            "{}{}{}",
            " ".repeat(number(1)),
            show(&args[0]),
            " ".repeat(number(2))
        ),
        "truncate" => show(&args[0]).chars().take(number(1)).collect(),
        _ => return error(format!(":1: function {name:?} not defined")),
    })
}

/// The first that stops, or the last.
fn pick(args: &[Value], stop: impl Fn(&Value) -> bool) -> Value {
    args.iter()
        .find(|v| stop(v))
        .or(args.last())
        .cloned()
        .unwrap_or(Value::Null)
}

fn order(a: &Value, b: &Value) -> Option<std::cmp::Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Null, Value::Null) => Some(std::cmp::Ordering::Equal),
        _ => None,
    }
}

fn compare(name: &str, a: &Value, b: &Value) -> Result<Value, TemplateError> {
    let ordering = order(a, b);
    if name == "ne" {
        return Ok(Value::Bool(ordering != Some(std::cmp::Ordering::Equal)));
    }
    let Some(ordering) = ordering else {
        return error(":1: incompatible types for comparison");
    };
    Ok(Value::Bool(match name {
        "lt" => ordering.is_lt(),
        "le" => ordering.is_le(),
        "gt" => ordering.is_gt(),
        _ => ordering.is_ge(),
    }))
}

fn index(args: &[Value]) -> Result<Value, TemplateError> {
    let Some((first, keys)) = args.split_first() else {
        return error(":1: wrong number of args for index: want at least 1 got 0");
    };
    let mut at = first.clone();
    for key in keys {
        at = match (&at, key) {
            (Value::Array(list), Value::Number(n)) => {
                let position = n.as_u64().and_then(|n| usize::try_from(n).ok());
                match position.and_then(|i| list.get(i)) {
                    Some(value) => value.clone(),
                    None => {
                        return error(format!(":1: error calling index: index out of range: {n}"));
                    }
                }
            }
            // Go gives the zero value of a map's type; of ours it is a text
            (Value::Object(map), Value::String(k)) => map
                .get(k)
                .cloned()
                .unwrap_or_else(|| Value::String(String::new())),
            (Value::Null, _) => return error(":1: error calling index: index of nil pointer"),
            (other, _) => {
                return error(format!(
                    ":1: error calling index: can't index item of type {}",
                    type_name(other)
                ));
            }
        };
    }
    Ok(at)
}

fn slice(args: &[Value]) -> Result<Value, TemplateError> {
    let bound = |i: usize, default: usize| {
        args.get(i)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(default)
    };
    let out_of_range = || error(":1: error calling slice: index out of range");
    match args.first() {
        Some(Value::String(s)) => match s.get(bound(1, 0)..bound(2, s.len())) {
            Some(part) => Ok(Value::String(part.to_owned())),
            None => out_of_range(),
        },
        Some(Value::Array(list)) => match list.get(bound(1, 0)..bound(2, list.len())) {
            Some(part) => Ok(Value::Array(part.to_vec())),
            None => out_of_range(),
        },
        _ => error(":1: error calling slice: can't slice item"),
    }
}

fn length(value: &Value) -> Result<Value, TemplateError> {
    Ok(Value::from(match value {
        Value::String(s) => s.len(),
        Value::Array(list) => list.len(),
        Value::Object(map) => map.len(),
        Value::Null => 0,
        other => {
            return error(format!(
                ":1: error calling len: len of type {}",
                type_name(other)
            ));
        }
    }))
}

fn join(list: &Value, separator: &str) -> Result<Value, TemplateError> {
    match list {
        Value::Array(items) => Ok(Value::String(
            items.iter().map(show).collect::<Vec<_>>().join(separator),
        )),
        Value::Null => Ok(Value::String(String::new())),
        other => error(format!(
            ":1: error calling join: expected []string, got {}",
            type_name(other)
        )),
    }
}

fn title(text: &str) -> String {
    let mut start = true;
    text.chars()
        .map(|c| {
            let out = if start {
                c.to_uppercase().next().unwrap_or(c)
            } else {
                c
            };
            start = !c.is_alphanumeric() && c != '_' && c != '\'';
            out
        })
        .collect()
}

/// `%s %v %d %q %t %x %f %%` with width, `-` and precision.
fn printf(args: &[Value]) -> Result<String, TemplateError> {
    let Some((format, args)) = args.split_first() else {
        return error(":1: wrong number of args for printf: want at least 1 got 0");
    };
    let format = show(format);
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = String::new();
        while let Some(d) = chars.next_if(|d| d.is_ascii_digit() || "-+.0 #".contains(*d)) {
            spec.push(d);
        }
        match chars.next() {
            Some('%') => out.push('%'),
            Some(verb) => match args.next() {
                Some(value) => out.push_str(&padded(&spec, verbatim(verb, &spec, value))),
                None => out.push_str(&format!("%!{verb}(MISSING)")),
            },
            None => out.push_str("%!(NOVERB)"),
        }
    }
    Ok(out)
}

fn verbatim(verb: char, spec: &str, value: &Value) -> String {
    let precision = spec
        .split_once('.')
        .and_then(|(_, p)| p.parse::<usize>().ok());
    match (verb, value) {
        ('q', v) => format!("{:?}", show(v)),
        ('f', Value::Number(n)) => {
            format!("{:.*}", precision.unwrap_or(6), n.as_f64().unwrap_or(0.0))
        }
        ('x', Value::Number(n)) => n
            .as_i64()
            .map_or_else(|| n.to_string(), |n| format!("{n:x}")),
        ('s', v) => match precision {
            Some(p) => show(v).chars().take(p).collect(),
            None => show(v),
        },
        (_, v) => show(v),
    }
}

fn padded(spec: &str, text: String) -> String {
    let width = spec.split('.').next().unwrap_or_default();
    let left = width.starts_with('-');
    let Ok(width) = width
        .trim_start_matches(['-', '+', ' ', '#'])
        .parse::<usize>()
    else {
        return text;
    };
    if left {
        format!("{text:<width$}")
    } else {
        format!("{text:>width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str) -> String {
        let dot = json!({
            "Id": "abc", "Name": "/web", "N": 3, "Pi": 3.5, "On": true, "Off": false,
            "None": null,
            "State": {"Running": true, "Pid": 42},
            "Env": ["A=1", "B=2"],
            "Labels": {"b.c": "2", "a": "1"},
            "Mounts": [{"Source": "/x", "RW": true}, {"Source": "/y", "RW": false}],
            "Empty": [],
        });
        match Template::parse(template).and_then(|t| t.render(&dot)) {
            Ok(text) => text,
            Err(e) => format!("! {e}"),
        }
    }

    #[test]
    fn renders_as_go_does() {
        for (template, want) in [
            ("{{.Id}} {{ .State.Pid }}", "abc 42"),
            ("{{.ID}}", "abc"),
            ("{{json .State}}", r#"{"Running":true,"Pid":42}"#),
            ("{{.Env}} {{.Labels}}", "[A=1 B=2] map[a:1 b.c:2]"),
            ("{{.None}}|{{.Off}}", "<no value>|false"),
            (
                "{{index .Env 1}} {{index .Labels \"b.c\"}}|{{index .Labels \"z\"}}",
                "B=2 2|",
            ),
            ("{{(index .Mounts 0).Source}}", "/x"),
            ("{{range .Mounts}}{{.Source}};{{end}}", "/x;/y;"),
            (
                "{{range $i, $m := .Mounts}}{{$i}}={{$m.Source}} {{end}}",
                "0=/x 1=/y ",
            ),
            (
                "{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}",
                "a=1 b.c=2 ",
            ),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if .Off}}a{{else if .On}}b{{else}}c{{end}}", "b"),
            ("{{if and .On (eq .N 3)}}yes{{end}}", "yes"),
            ("{{if or .Off (gt .N 5)}}yes{{else}}no{{end}}", "no"),
            ("{{with .State}}{{.Pid}}{{$.Id}}{{end}}", "42abc"),
            ("{{with .None}}x{{else}}y{{end}}", "y"),
            ("{{len .Env}} {{len .Id}}", "2 3"),
            ("{{join .Env \",\"}}", "A=1,B=2"),
            ("{{range split .Name \"/\"}}[{{.}}]{{end}}", "[][web]"),
            (
                "{{upper .Id}} {{lower \"ABC\"}} {{title \"ab cd\"}}",
                "ABC abc Ab Cd",
            ),
            ("{{.Id | upper | printf \"%s-%d\" \"x\"}}", "x-ABC"),
            (
                "{{printf \"%-5s|%5d|%q|%.2f|%%\" .Id .N .Id .Pi}}",
                "abc  |    3|\"abc\"|3.50|%",
            ),
            ("{{println .Id .N}}", "abc 3\n"),
            ("a {{- .Id -}} b", "aabcb"),
            ("{{/* nothing */}}x", "x"),
            ("{{$x := .Id}}{{$x}}{{$x}}", "abcabc"),
            (
                "{{not .On}} {{ne .N 4}} {{eq .Id \"x\" \"abc\"}}",
                "false true true",
            ),
            (
                "{{slice .Id 1}} {{truncate .Id 2}} {{pad .Id 1 1}}|",
                "bc ab  abc |",
            ),
            (
                "{{`raw \"x\"`}} {{\"a\\tb\"}} {{'a'}} {{1.5}} {{true}}",
                "raw \"x\" a\tb 97 1.5 true",
            ),
            (
                "{{range $i, $e := .Env}}{{if $i}}, {{end}}{{$e}}{{end}}",
                "A=1, B=2",
            ),
        ] {
            assert_eq!(render(template), want, "{template}");
        }
    }

    #[test]
    fn a_field_that_is_not_there_is_an_error() {
        insta::assert_snapshot!(render("{{.Foo}}"), @r#"! template parsing error: template: :1:2: executing "" at <.Foo>: map has no entry for key "Foo""#);
        insta::assert_snapshot!(render("{{.Id.Foo}}"), @r#"! template parsing error: template: :1:2: executing "" at <.Id.Foo>: can't evaluate field Foo in type string"#);
        insta::assert_snapshot!(render("{{.None.Foo}}"), @r#"! template parsing error: template: :1:2: executing "" at <.None.Foo>: nil pointer evaluating interface {}.Foo"#);
    }

    #[test]
    fn wrong_templates_are_refused() {
        for template in [
            "{{",
            "{{}}",
            "{{.A",
            "{{if .On}}",
            "{{end}}",
            "{{foo .Id}}",
            "{{(.Id}}",
            "{{.Id)}}",
            "{{else}}",
            "{{\"x}}",
            "{{range .Id}}{{end}}",
            "{{index .Env 9}}",
            "{{$y}}",
            "{{1 2}}",
        ] {
            assert!(render(template).starts_with('!'), "{template}");
        }
    }
}
