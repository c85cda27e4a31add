//! Typed values: literals, lists, numbers and BLOBFILE references.

use half::f16;

use super::{MAX_DEPTH, ParseError, Parser, is_type_start};
use crate::lexer::Token;
use crate::program::{Data, Literal};
use crate::types::{DType, TensorType};

impl Parser<'_> {
    pub(super) fn literal(&mut self) -> Result<Literal, ParseError> {
        let pos = self.next.1;
        match &self.next.0 {
            Token::Ident(name) if is_type_start(name) => {
                let ty = self.tensor_type()?;
                self.punct('(')?;
                let data = if matches!(self.next.0, Token::Ident("BLOBFILE")) {
                    self.blob()?
                } else {
                    let mut data = empty(ty.dtype);
                    self.elements(&mut data, 0)?;
                    let (found, wanted) = (data.len().unwrap_or(0), ty.shape.elements());
                    if found != wanted {
                        return Err(ParseError::new(
                            pos,
                            format!("`{ty}` has {wanted} elements, but {found} are written"),
                            "list every element, row by row",
                        ));
                    }
                    data
                };
                self.punct(')')?;
                Ok(Literal { ty, data })
            }
            // A bare literal: its type is the plainest one.
            token => {
                let dtype = match token {
                    Token::Number(s) if s.parse::<i64>().is_ok() => DType::Int32,
                    Token::Number(_) | Token::Ident("inf" | "nan") => DType::Fp32,
                    Token::Str(_) => DType::String,
                    Token::Ident("true" | "false") => DType::Bool,
                    other => {
                        return Err(ParseError::new(
                            pos,
                            format!("{} is no value", other.describe()),
                            "write a typed value such as `fp16(0.5)` or the name of one",
                        ));
                    }
                };
                let mut data = empty(dtype);
                self.element(&mut data)?;
                Ok(Literal { ty: TensorType::scalar(dtype), data })
            }
        }
    }

    fn blob(&mut self) -> Result<Data, ParseError> {
        let pos = self.next.1;
        self.keyword("BLOBFILE")?;
        self.punct('(')?;
        let (mut path, mut offset) = (None, None);
        while !self.at(')') {
            let (key, pos) = self.ident("`path` or `offset`")?;
            self.punct('=')?;
            match (key, self.literal()?.data) {
                ("path", Data::Str(mut v)) if v.len() == 1 => path = v.pop(),
                ("offset", Data::Int(v)) if v.len() == 1 => offset = u64::try_from(v[0]).ok(),
                _ => {
                    return Err(ParseError::new(
                        pos,
                        format!("`{key}` does not hold what a BLOBFILE wants"),
                        "write `path = string(\"…\"), offset = uint64(64)`",
                    ));
                }
            }
            if !self.comma_or(')')? {
                break;
            }
        }
        self.punct(')')?;
        match (path, offset) {
            (Some(path), Some(offset)) => Ok(Data::Blob { path, offset }),
            _ => Err(ParseError::new(
                pos,
                "a BLOBFILE needs a path and an offset that is not negative",
                "write `BLOBFILE(path = string(\"…\"), offset = uint64(64))`",
            )),
        }
    }

    fn elements(&mut self, data: &mut Data, depth: usize) -> Result<(), ParseError> {
        if !self.at('[') {
            return self.element(data);
        }
        if depth >= MAX_DEPTH {
            return Err(ParseError::new(
                self.next.1,
                format!("lists are nested deeper than {MAX_DEPTH}"),
                "write one flat list, row by row",
            ));
        }
        self.advance()?;
        while !self.at(']') {
            self.elements(data, depth + 1)?;
            if !self.comma_or(']')? {
                break;
            }
        }
        self.punct(']')
    }

    fn element(&mut self, data: &mut Data) -> Result<(), ParseError> {
        let (token, pos) = self.take()?;
        let fits = match (&mut *data, &token) {
            (Data::F16(v), token) => push(v, float(token).map(f16::from_f64)),
            (Data::F32(v), token) => push(v, float(token).map(|x| x as f32)),
            (Data::Int(v), Token::Number(s)) => push(v, integer(s)),
            (Data::Bool(v), Token::Ident("true")) => push(v, Some(true)),
            (Data::Bool(v), Token::Ident("false")) => push(v, Some(false)),
            (Data::Str(v), Token::Str(s)) => push(v, Some(s.clone())),
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let (wanted, example) = match data {
            Data::F16(_) | Data::F32(_) => ("a float", "`0.5` or `0x1p-1`"),
            Data::Int(_) => ("an integer", "`64`"),
            Data::Bool(_) => ("a bool", "`true` or `false`"),
            Data::Str(_) | Data::Blob { .. } => ("a string", "`\"text\"`"),
        };
        Err(ParseError::new(
            pos,
            format!("{} stands where {wanted} belongs", token.describe()),
            format!("write {example}"),
        ))
    }

    pub(super) fn string_value(&mut self) -> Result<String, ParseError> {
        let pos = self.next.1;
        match self.literal()?.data {
            Data::Str(mut v) if v.len() == 1 => Ok(v.swap_remove(0)),
            _ => Err(ParseError::new(pos, "this is no string", "write `string(\"…\")`")),
        }
    }
}

/// Adds a value that was understood.
fn push<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
    let understood = value.is_some();
    values.extend(value);
    understood
}

fn empty(dtype: DType) -> Data {
    match dtype {
        DType::Fp16 => Data::F16(Vec::new()),
        DType::Fp32 => Data::F32(Vec::new()),
        DType::Bool => Data::Bool(Vec::new()),
        DType::String => Data::Str(Vec::new()),
        _ => Data::Int(Vec::new()),
    }
}

fn integer(s: &str) -> Option<i64> {
    let (sign, digits) = match s.strip_prefix('-') {
        Some(d) => (-1, d),
        None => (1, s.strip_prefix('+').unwrap_or(s)),
    };
    match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => i64::from_str_radix(hex, 16).ok().map(|x| sign * x),
        None => s.parse().ok(),
    }
}

fn float(token: &Token<'_>) -> Option<f64> {
    match token {
        Token::Ident("inf") => Some(f64::INFINITY),
        Token::Ident("nan") => Some(f64::NAN),
        Token::Number(s) => {
            let (sign, digits) = match s.strip_prefix('-') {
                Some(d) => (-1.0, d),
                None => (1.0, s.strip_prefix('+').unwrap_or(s)),
            };
            let magnitude = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
                Some(hex) => hex_float(hex)?,
                None => digits.parse().ok().filter(|_| !digits.contains('_'))?,
            };
            Some(sign * magnitude)
        }
        _ => None,
    }
}

/// `h.hhhp±e` without its `0x`, exact as long as the digits fit 53 bits.
fn hex_float(s: &str) -> Option<f64> {
    let (digits, exponent) = match s.split_once(['p', 'P']) {
        Some((d, e)) => (d, e.parse::<i32>().ok()?),
        None => (s, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let count = whole.len() + fraction.len();
    if count == 0 || count > 13 || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mantissa = u64::from_str_radix(&format!("{whole}{fraction}"), 16).ok()? as f64;
    // Two steps keep every power of two in the range of f64.
    let exponent = exponent.clamp(-2000, 2000) - 4 * fraction.len() as i32;
    let half = exponent / 2;
    Some(mantissa * 2f64.powi(half) * 2f64.powi(exponent - half))
}
