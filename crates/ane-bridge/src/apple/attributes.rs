//! What the compiler made of a program's inputs and outputs: their order and their rows.
//!
//! ```text
//! ANEFModelDescription
//!     kANEFModelInputSymbolsArrayKey    ["i00_x", "i01_w"]
//!     kANEFModelOutputSymbolsArrayKey   ["o00_y@output"]
//! NetworkStatusList[0]
//!     LiveInputList[i]                  {Width: 64, RowStride: 128, …}
//!     LiveOutputList[i]
//! ```
//!
//! Source: jafreck/ironmill, docs/design/ane/ane-runtime-behavior.md 7. Requests bind surfaces to
//! symbols by index, so the names are the authority on order, and the strides on the rows of a surface.

use objc2::Message;
use objc2::runtime::AnyObject;
use objc2_foundation::{NSArray, NSDictionary, NSNumber, NSString};

use crate::device::Port;

/// Inputs and outputs as compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Inputs in binding order.
    pub inputs: Vec<Symbol>,
    /// Outputs in binding order.
    pub outputs: Vec<Symbol>,
}

/// An input or output as compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Name in the program.
    pub name: String,
    /// Elements of a row, and bytes from one row to the next, where they are told.
    pub row: Option<(usize, usize)>,
}

impl Attributes {
    /// Reads the model's attributes; `None` when they have another form.
    pub fn read(attributes: &AnyObject) -> Option<Self> {
        let root = attributes.downcast_ref::<NSDictionary>()?;
        let description = dictionary(&*get(root, "ANEFModelDescription")?)?;
        let lists = get(root, "NetworkStatusList").and_then(|list| {
            let list = list.downcast_ref::<NSArray>()?;
            list.firstObject()?.downcast::<NSDictionary>().ok()
        });
        let side = |names: &str, rows: &str| -> Option<Vec<Symbol>> {
            let names = get(&description, names)?;
            let names = names.downcast_ref::<NSArray>()?;
            let rows = lists.as_ref().and_then(|lists| get(lists, rows));
            let rows = rows.as_ref().and_then(|rows| rows.downcast_ref::<NSArray>());
            // Rows in another number than names say nothing about them.
            let rows = rows.filter(|rows| rows.count() == names.count());
            let symbol = |i: usize| {
                let name = names.objectAtIndex(i).downcast::<NSString>().ok()?.to_string();
                let name = name.strip_suffix("@output").map_or(name.clone(), str::to_owned);
                let row = rows.and_then(|rows| {
                    let row = dictionary(&rows.objectAtIndex(i))?;
                    Some((number(&row, "Width")?, number(&row, "RowStride")?))
                });
                Some(Symbol { name, row })
            };
            (0..names.count()).map(symbol).collect()
        };
        Some(Self {
            inputs: side("kANEFModelInputSymbolsArrayKey", "LiveInputList")?,
            outputs: side("kANEFModelOutputSymbolsArrayKey", "LiveOutputList")?,
        })
    }
}

/// The symbol index of each port.
///
/// # Errors
/// A sentence when names or rows are not those of the ports.
pub fn indices(side: &str, ports: &[Port], symbols: &[Symbol]) -> Result<Vec<usize>, String> {
    let index = |port: &Port| {
        let at = symbols.iter().position(|symbol| symbol.name == port.name).ok_or_else(|| {
            let names: Vec<_> = symbols.iter().map(|symbol| symbol.name.as_str()).collect();
            format!("the compiled program has no {side} `{}`; it has {}", port.name, names.join(", "))
        })?;
        let wanted = (port.layout.width, port.layout.row_pitch());
        match symbols[at].row {
            Some((width, stride)) if width == wanted.0 && stride != wanted.1 => Err(format!(
                "the compiled program reads rows of {side} `{}` {stride} bytes apart, not {}; \
                 surfaces of this chip are laid out otherwise than known",
                port.name, wanted.1
            )),
            _ => Ok(at),
        }
    };
    ports.iter().map(index).collect()
}

type Kept<T> = objc2::rc::Retained<T>;

fn get(dictionary: &NSDictionary, key: &str) -> Option<Kept<AnyObject>> {
    dictionary.objectForKey(&NSString::from_str(key))
}

fn dictionary(object: &AnyObject) -> Option<Kept<NSDictionary>> {
    object.downcast_ref::<NSDictionary>().map(Message::retain)
}

fn number(dictionary: &NSDictionary, key: &str) -> Option<usize> {
    Some(get(dictionary, key)?.downcast::<NSNumber>().ok()?.as_usize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surface::Layout;

    fn symbol(name: &str, row: Option<(usize, usize)>) -> Symbol {
        Symbol { name: name.into(), row }
    }

    fn port(name: &str, width: usize) -> Port {
        Port { name: name.into(), layout: Layout::fp16(4, width) }
    }

    #[test]
    fn names_decide_the_order() {
        let ports = [port("a", 64), port("b", 64)];
        let order = |symbols: &[Symbol]| indices("input", &ports, symbols);
        assert_eq!(order(&[symbol("b", None), symbol("a", Some((64, 128)))]), Ok(vec![1, 0]));
        let missing = order(&[symbol("b", None), symbol("c", None)]).unwrap_err();
        assert_eq!(missing, "the compiled program has no input `a`; it has b, c");
    }

    #[test]
    fn other_rows_are_refused() {
        let wide = indices("output", &[port("y", 64)], &[symbol("y", Some((64, 256)))]).unwrap_err();
        assert!(wide.contains("256 bytes apart, not 128"), "{wide}");
        // Rows of another width are of another form, and are not judged.
        assert_eq!(indices("output", &[port("y", 64)], &[symbol("y", Some((1, 256)))]), Ok(vec![0]));
    }
}
