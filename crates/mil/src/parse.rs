//! Text → program. Reads what [`crate::print`] writes and the spellings of other projects.
//!
//! ```text
//! program  = "program" "(" number ")" [ attrs ] "{" { func } "}"
//! func     = "func" ident "<" ident ">" "(" [ type ident { "," type ident } ] ")" [ attrs ]
//!            "{" { stmt } "}" "->" "(" ident { "," ident } ")" ";"
//! stmt     = type ident { "," type ident } "=" ident "(" [ arg { "," arg } ] ")" [ attrs ] ";"
//! arg      = ident "=" ( ident | "(" ident { "," ident } ")" | value )
//! value    = type "(" ( literal | "[" literals "]" | blob ) ")" | literal
//! blob     = "BLOBFILE" "(" "path" "=" value "," "offset" "=" value ")"
//! ```
//!
//! Both `string("…")` and `tensor<string, []>("…")` are read, both `program(1.3)` and `program(1.0)`,
//! hex floats, nested lists, arguments written in place, and `//` comments. Lists are flattened.
//! Memory is bounded by the text: a shape reserves nothing, only written elements do.
//! Reading stops at the first error; rules about a program that reads well are the verifier's.

mod literal;

use std::collections::HashMap;

use crate::lexer::{Lexer, Token};
use crate::program::{Arg, Function, Op, OpName, Pos, Program, ValueId, Version};
use crate::types::{DType, Shape, TensorType};

/// Why a text is not a program, and where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}:{}: {message}; {fix}", pos.line, pos.col)]
pub struct ParseError {
    /// Line and column of the first character that does not fit.
    pub pos: Pos,
    /// What was found, and what was wanted.
    pub message: String,
    /// What to write instead.
    pub fix: String,
}

impl ParseError {
    pub(crate) fn new(pos: Pos, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { pos, message: message.into(), fix: fix.into() }
    }
}

/// Reads a whole program; its [`Program::weights`] are `None`.
///
/// # Errors
/// [`ParseError`] with the position of the first fault.
pub fn parse(text: &str) -> Result<Program, ParseError> {
    let mut p = Parser { lexer: Lexer::new(text), next: (Token::End, Pos::default()) };
    p.advance()?;
    p.program()
}

/// Nested lists deeper than any tensor has axes are an attack or a mistake.
const MAX_DEPTH: usize = 16;

type Names = HashMap<String, ValueId>;

struct Parser<'a> {
    lexer: Lexer<'a>,
    next: (Token<'a>, Pos),
}

impl<'a> Parser<'a> {
    fn program(&mut self) -> Result<Program, ParseError> {
        self.keyword("program")?;
        self.punct('(')?;
        let version = self.version()?;
        self.punct(')')?;
        let mut program = Program { version, build_info: Vec::new(), functions: Vec::new(), weights: None };
        if self.at('[') {
            program.build_info = self.build_info()?;
        }
        self.punct('{')?;
        while !self.at('}') {
            let function = self.function()?;
            if program.function(&function.name).is_some() {
                return Err(ParseError::new(
                    function.pos(),
                    format!("the function `{}` is defined twice", function.name),
                    "rename one of them",
                ));
            }
            program.functions.push(function);
        }
        self.punct('}')?;
        match &self.next {
            (Token::End, _) => Ok(program),
            (token, pos) => Err(ParseError::new(
                *pos,
                format!("{} follows the program's closing brace", token.describe()),
                "remove it; a file holds one program",
            )),
        }
    }

    fn version(&mut self) -> Result<Version, ParseError> {
        let (token, pos) = self.take()?;
        let parts = match &token {
            Token::Number(s) => s.split_once('.'),
            _ => None,
        };
        match parts.map(|(major, minor)| (major.parse(), minor.parse())) {
            Some((Ok(major), Ok(minor))) => Ok(Version { major, minor }),
            _ => Err(ParseError::new(
                pos,
                format!("{} is no dialect version", token.describe()),
                "write `program(1.3)`",
            )),
        }
    }

    /// `[buildInfo = dict<…>({{"key", "value"}, …})]`; other attributes are read over.
    fn build_info(&mut self) -> Result<Vec<(String, String)>, ParseError> {
        let mut info = Vec::new();
        self.punct('[')?;
        while !self.at(']') {
            let (name, _) = self.ident("an attribute name")?;
            self.punct('=')?;
            if name == "buildInfo" {
                self.skip_type(0)?;
                self.punct('(')?;
                self.punct('{')?;
                while !self.at('}') {
                    self.punct('{')?;
                    let key = self.string_value()?;
                    self.punct(',')?;
                    let value = self.string_value()?;
                    self.punct('}')?;
                    info.push((key, value));
                    if !self.comma_or('}')? {
                        break;
                    }
                }
                self.punct('}')?;
                self.punct(')')?;
            } else {
                self.skip_attribute()?;
            }
            if !self.comma_or(']')? {
                break;
            }
        }
        self.punct(']')?;
        Ok(info)
    }

    /// Reads over an attribute value that has no meaning for us, up to `,` or `]`.
    fn skip_attribute(&mut self) -> Result<(), ParseError> {
        let start = self.next.1;
        let mut open = 0usize;
        loop {
            match self.next.0 {
                Token::End => {
                    return Err(ParseError::new(start, "this attribute never ends", "close it with `]`"));
                }
                Token::Punct(',' | ']') if open == 0 => return Ok(()),
                Token::Punct('(' | '[' | '{' | '<') => open += 1,
                Token::Punct(')' | ']' | '}' | '>') => {
                    open = open.checked_sub(1).ok_or_else(|| {
                        ParseError::new(self.next.1, "this bracket was never opened", "remove it")
                    })?;
                }
                _ => {}
            }
            self.advance()?;
        }
    }

    fn function(&mut self) -> Result<Function, ParseError> {
        let pos = self.next.1;
        self.keyword("func")?;
        let (name, _) = self.ident("a function name")?;
        self.punct('<')?;
        let (opset, _) = self.ident("an operation set such as `ios18`")?;
        self.punct('>')?;
        let mut function = Function::new(name, opset);
        function.set_pos(pos);
        let mut names = Names::new();
        self.punct('(')?;
        while !self.at(')') {
            let ty = self.tensor_type()?;
            let (name, pos) = self.new_name(&names)?;
            let id = function.add_param(name.to_string(), ty, pos);
            names.insert(name.to_string(), id);
            if !self.comma_or(')')? {
                break;
            }
        }
        self.punct(')')?;
        if self.at('[') {
            self.advance()?;
            while !self.at(']') {
                self.ident("an attribute name")?;
                self.punct('=')?;
                self.skip_attribute()?;
                if !self.comma_or(']')? {
                    break;
                }
            }
            self.punct(']')?;
        }
        self.punct('{')?;
        while !self.at('}') {
            self.statement(&mut function, &mut names)?;
        }
        self.punct('}')?;
        match self.take()? {
            (Token::Arrow, _) => {}
            (token, pos) => {
                return Err(ParseError::new(
                    pos,
                    format!("{} stands where `->` belongs", token.describe()),
                    "end the function with `-> (name, …);`",
                ));
            }
        }
        let outputs = self.name_tuple(&names)?;
        function.set_outputs(outputs);
        self.punct(';')?;
        Ok(function)
    }

    fn statement(&mut self, function: &mut Function, names: &mut Names) -> Result<(), ParseError> {
        let pos = self.next.1;
        let mut results: Vec<(String, TensorType, Pos)> = Vec::new();
        loop {
            let ty = self.tensor_type()?;
            let (name, pos) = self.new_name(names)?;
            if results.iter().any(|(n, ..)| n == name) {
                return Err(duplicate(name, pos));
            }
            results.push((name.to_string(), ty, pos));
            if !self.at(',') {
                break;
            }
            self.advance()?;
        }
        self.punct('=')?;
        let (op, _) = self.ident("an operation")?;
        let args = self.arguments(names)?;
        let mut name = results[0].0.clone();
        let mut attrs = Vec::new();
        if self.at('[') {
            self.advance()?;
            while !self.at(']') {
                let (key, pos) = self.ident("an attribute name")?;
                self.punct('=')?;
                if key == "name" {
                    name = self.string_value()?;
                } else if attrs.iter().any(|(k, _)| k == key) {
                    return Err(ParseError::new(
                        pos,
                        format!("the attribute `{key}` is given twice"),
                        "keep one",
                    ));
                } else {
                    attrs.push((key.to_string(), self.literal()?));
                }
                if !self.comma_or(']')? {
                    break;
                }
            }
            self.punct(']')?;
        }
        self.punct(';')?;
        let op = Op { op: OpName::new(op), args, attrs, results: Vec::new(), name, pos };
        let named: Vec<String> = results.iter().map(|(n, ..)| n.clone()).collect();
        let ids = function.add_op(op, results);
        names.extend(named.into_iter().zip(ids));
        Ok(())
    }

    fn arguments(&mut self, names: &Names) -> Result<Vec<(String, Arg)>, ParseError> {
        let mut args: Vec<(String, Arg)> = Vec::new();
        self.punct('(')?;
        while !self.at(')') {
            let (key, pos) = self.ident("an argument name")?;
            if args.iter().any(|(k, _)| k == key) {
                return Err(ParseError::new(pos, format!("the argument `{key}` is given twice"), "keep one"));
            }
            self.punct('=')?;
            let arg = match &self.next.0 {
                Token::Punct('(') => Arg::Tuple(self.name_tuple(names)?),
                Token::Ident(name)
                    if !is_type_start(name) && !matches!(*name, "true" | "false" | "inf" | "nan") =>
                {
                    Arg::Value(self.known_name(names)?)
                }
                _ => Arg::Literal(self.literal()?),
            };
            args.push((key.to_string(), arg));
            if !self.comma_or(')')? {
                break;
            }
        }
        self.punct(')')?;
        Ok(args)
    }

    fn name_tuple(&mut self, names: &Names) -> Result<Vec<ValueId>, ParseError> {
        let mut ids = Vec::new();
        self.punct('(')?;
        while !self.at(')') {
            ids.push(self.known_name(names)?);
            if !self.comma_or(')')? {
                break;
            }
        }
        self.punct(')')?;
        Ok(ids)
    }

    fn known_name(&mut self, names: &Names) -> Result<ValueId, ParseError> {
        let (name, pos) = self.ident("the name of a value")?;
        names.get(name).copied().ok_or_else(|| {
            ParseError::new(
                pos,
                format!("`{name}` is not defined above this line"),
                "define it first; names are case-sensitive and belong to one function",
            )
        })
    }

    fn new_name(&mut self, names: &Names) -> Result<(&'a str, Pos), ParseError> {
        let (name, pos) = self.ident("a name for the value")?;
        if names.contains_key(name) {
            return Err(duplicate(name, pos));
        }
        Ok((name, pos))
    }

    fn tensor_type(&mut self) -> Result<TensorType, ParseError> {
        let (name, pos) = self.ident("a type such as `tensor<fp16, [1, 64, 1, 64]>`")?;
        if name != "tensor" {
            return Ok(TensorType::scalar(dtype(name, pos)?));
        }
        self.punct('<')?;
        let (name, pos) = self.ident("an element type")?;
        let dtype = dtype(name, pos)?;
        self.punct(',')?;
        self.punct('[')?;
        let mut dims = Vec::new();
        while !self.at(']') {
            dims.push(self.dim()?);
            if dims.len() > MAX_DEPTH {
                return Err(ParseError::new(
                    pos,
                    format!("this type has more than {MAX_DEPTH} axes"),
                    "the ANE takes at most 5",
                ));
            }
            if !self.comma_or(']')? {
                break;
            }
        }
        self.punct(']')?;
        self.punct('>')?;
        Ok(TensorType { dtype, shape: Shape::new(dims) })
    }

    fn dim(&mut self) -> Result<usize, ParseError> {
        let (token, pos) = self.take()?;
        let dim = match &token {
            Token::Number(s) => s.parse::<u32>().ok(),
            _ => None,
        };
        dim.map(|d| d as usize).ok_or_else(|| match token {
            Token::Punct('?') => ParseError::new(
                pos,
                "the extent `?` is flexible, and an ANE program has fixed extents",
                "write a number",
            ),
            token => ParseError::new(
                pos,
                format!("{} is no extent", token.describe()),
                "write an integer from 0 to 4294967295",
            ),
        })
    }

    /// Reads over a type with any nesting that a dictionary may have.
    fn skip_type(&mut self, depth: usize) -> Result<(), ParseError> {
        let (_, pos) = self.ident("a type")?;
        if depth > MAX_DEPTH {
            return Err(ParseError::new(pos, "this type is nested too deep", "write `dict<string, string>`"));
        }
        if !self.at('<') {
            return Ok(());
        }
        self.advance()?;
        while !self.at('>') {
            if self.at('[') {
                self.advance()?;
                while !self.at(']') {
                    self.take_inside(pos)?;
                }
                self.punct(']')?;
            } else {
                self.skip_type(depth + 1)?;
            }
            if !self.comma_or('>')? {
                break;
            }
        }
        self.punct('>')
    }

    fn take_inside(&mut self, open: Pos) -> Result<(), ParseError> {
        match self.take()?.0 {
            Token::End => Err(ParseError::new(open, "this type never ends", "close it with `>`")),
            _ => Ok(()),
        }
    }

    /// True after a comma, false before `close`.
    fn comma_or(&mut self, close: char) -> Result<bool, ParseError> {
        if self.at(',') {
            self.advance()?;
            return Ok(true);
        }
        if self.at(close) {
            return Ok(false);
        }
        Err(ParseError::new(
            self.next.1,
            format!("{} stands where `,` or `{close}` belongs", self.next.0.describe()),
            format!("separate items with `,` and close the list with `{close}`"),
        ))
    }

    fn keyword(&mut self, word: &str) -> Result<(), ParseError> {
        match self.take()? {
            (Token::Ident(s), _) if s == word => Ok(()),
            (token, pos) => Err(ParseError::new(
                pos,
                format!("{} stands where `{word}` belongs", token.describe()),
                format!("write `{word}`"),
            )),
        }
    }

    fn ident(&mut self, wanted: &str) -> Result<(&'a str, Pos), ParseError> {
        match self.take()? {
            (Token::Ident(s), pos) => Ok((s, pos)),
            (token, pos) => Err(ParseError::new(
                pos,
                format!("{} stands where {wanted} belongs", token.describe()),
                format!("write {wanted}"),
            )),
        }
    }

    fn punct(&mut self, c: char) -> Result<(), ParseError> {
        match self.take()? {
            (Token::Punct(p), _) if p == c => Ok(()),
            (token, pos) => Err(ParseError::new(
                pos,
                format!("{} stands where `{c}` belongs", token.describe()),
                format!("write `{c}`"),
            )),
        }
    }

    fn at(&self, c: char) -> bool {
        self.next.0 == Token::Punct(c)
    }

    fn advance(&mut self) -> Result<(), ParseError> {
        self.next = self.lexer.next()?;
        Ok(())
    }

    fn take(&mut self) -> Result<(Token<'a>, Pos), ParseError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, next))
    }
}

fn is_type_start(name: &str) -> bool {
    matches!(name, "tensor" | "state" | "dict" | "tuple" | "list") || DType::from_name(name).is_some()
}

fn dtype(name: &str, pos: Pos) -> Result<DType, ParseError> {
    DType::from_name(name).ok_or_else(|| match name {
        "state" | "dict" | "tuple" | "list" => ParseError::new(
            pos,
            format!("values of type `{name}` are not supported"),
            "pass the data as tensors",
        ),
        _ => ParseError::new(
            pos,
            format!("`{name}` is no element type"),
            format!("use one of {}", DType::ALL.map(|(_, n)| n).join(" ")),
        ),
    })
}

fn duplicate(name: &str, pos: Pos) -> ParseError {
    ParseError::new(pos, format!("`{name}` is defined twice in this function"), "rename one of them")
}
