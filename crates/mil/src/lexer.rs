//! Text → tokens with positions, one at a time and without allocation except for strings.

use crate::parse::ParseError;
use crate::program::Pos;

/// One token of MIL text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    Ident(&'a str),
    /// A number as written: `12`, `-0.5`, `0x1.5cp-3`.
    Number(&'a str),
    /// A string with its escapes undone.
    Str(String),
    /// One of `( ) [ ] { } < > , ; = ?`.
    Punct(char),
    /// `->`.
    Arrow,
    End,
}

impl Token<'_> {
    /// How an error message names the token.
    pub(crate) fn describe(&self) -> String {
        match self {
            Token::Ident(s) | Token::Number(s) => format!("`{}`", shorten(s)),
            Token::Str(s) => format!("the string {:?}", shorten(s)),
            Token::Punct(c) => format!("`{c}`"),
            Token::Arrow => "`->`".into(),
            Token::End => "the end of the text".into(),
        }
    }
}

fn shorten(s: &str) -> String {
    let mut out: String = s.chars().take(40).collect();
    if out.len() < s.len() {
        out.push('…');
    }
    out
}

pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    pos: Pos,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, pos: Pos { line: 1, col: 1 } }
    }

    /// The next token and where it starts.
    pub(crate) fn next(&mut self) -> Result<(Token<'a>, Pos), ParseError> {
        self.skip_blank();
        let (start, pos) = (self.at, self.pos);
        let Some(c) = self.peek() else { return Ok((Token::End, pos)) };
        let token = match c {
            '(' | ')' | '[' | ']' | '{' | '}' | '<' | '>' | ',' | ';' | '=' | '?' => {
                self.bump();
                Token::Punct(c)
            }
            '"' => Token::Str(self.string(pos)?),
            '-' if self.text[self.at..].starts_with("->") => {
                self.bump();
                self.bump();
                Token::Arrow
            }
            '-' | '+' | '.' | '0'..='9' => {
                self.number();
                Token::Number(&self.text[start..self.at])
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                self.bump_while(|c| c.is_ascii_alphanumeric() || c == '_');
                Token::Ident(&self.text[start..self.at])
            }
            c => {
                return Err(ParseError::new(
                    pos,
                    format!("the character {c:?} has no meaning here"),
                    "remove it; text belongs in double quotes",
                ));
            }
        };
        Ok((token, pos))
    }

    fn number(&mut self) {
        self.bump();
        let mut hex = false;
        let mut last = '0';
        while let Some(c) = self.peek() {
            if matches!(c, 'x' | 'X') {
                hex = true;
            }
            let signed_exponent =
                matches!(c, '+' | '-') && (matches!(last, 'p' | 'P') || (!hex && matches!(last, 'e' | 'E')));
            if !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || signed_exponent) {
                break;
            }
            last = c;
            self.bump();
        }
    }

    fn string(&mut self, open: Pos) -> Result<String, ParseError> {
        self.bump();
        let mut out = String::new();
        loop {
            let here = self.pos;
            match self.bump() {
                None => {
                    return Err(ParseError::new(open, "this string never ends", "close it with `\"`"));
                }
                Some('"') => return Ok(out),
                Some('\\') => out.push(match self.bump() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(c @ ('"' | '\\' | '/' | '\'')) => c,
                    other => {
                        let found = other.map_or("nothing".into(), |c| format!("{c:?}"));
                        return Err(ParseError::new(
                            here,
                            format!("a backslash is followed by {found}"),
                            "write one of \\\" \\\\ \\n \\t \\r",
                        ));
                    }
                }),
                Some(c) => out.push(c),
            }
        }
    }

    fn skip_blank(&mut self) {
        loop {
            self.bump_while(|c| c.is_whitespace() || c == '\u{feff}');
            if !self.text[self.at..].starts_with("//") {
                return;
            }
            self.bump_while(|c| c != '\n');
        }
    }

    fn bump_while(&mut self, keep: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&keep) {
            self.bump();
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        if c == '\n' {
            self.pos.line = self.pos.line.saturating_add(1);
            self.pos.col = 1;
        } else {
            self.pos.col = self.pos.col.saturating_add(1);
        }
        Some(c)
    }
}
