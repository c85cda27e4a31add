//! The loaded framework: one `Result` per call.
//!
//! A [`Framework`] exists only when every row of [`table`] that its user needs was found with the
//! expected types, so its calls cannot meet a missing selector or another type. Objects that calls
//! return are [`Object`]s, retained; every call has its own autorelease pool, so any thread may call.
//! An Objective-C exception becomes an error.

use std::ffi::{CStr, CString};
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};

use mil::Weights;
use objc2::Message;
use objc2::encode::{EncodeArguments, EncodeReturn};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{AnyClass, AnyObject, Bool, MessageReceiver};
use objc2_foundation::{
    NSArray, NSData, NSDictionary, NSError, NSException, NSNumber, NSString, NSTemporaryDirectory, NSURL,
};

use super::attributes::Attributes;
use super::error::{Mismatch, OpenError, SystemError};
use super::settings::Qos;
use super::sys;
use super::table::{self, ErrorOut, IOSurface, Id, Kind, Method, Need, Row};

/// An object of the framework that several threads may use.
#[derive(Clone, Debug)]
pub struct Object(ManuallyDrop<Retained<AnyObject>>);

// SAFETY: models, requests, wrapped surfaces and clients belong to no thread, and retain counts are
// atomic. Published engines make them on one thread and use them on another. The device serialises
// the calls that change their state.
unsafe impl Send for Object {}
// SAFETY: as above; `&Object` alone reaches no content.
unsafe impl Sync for Object {}

impl Drop for Object {
    fn drop(&mut self) {
        // The framework was seen to throw from a `dealloc` (jafreck/ironmill); the object is gone then.
        // SAFETY: dropped once, here.
        let _ = caught("release", || unsafe { ManuallyDrop::drop(&mut self.0) });
    }
}

impl Object {
    pub(super) fn new(object: Retained<AnyObject>) -> Self {
        Self(ManuallyDrop::new(object))
    }

    /// Its class.
    pub(super) fn class(&self) -> &'static AnyClass {
        self.0.class()
    }

    /// The object, live as long as this value.
    pub(super) fn raw(&self) -> NonNull<AnyObject> {
        NonNull::from(&**self.0)
    }

    fn id(&self) -> Id {
        Retained::as_ptr(&self.0).cast_mut()
    }
}

/// Which calls are to be there besides those that nothing runs without.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Those of direct evaluation.
    pub direct: bool,
    /// Those of times by the hardware.
    pub statistics: bool,
}

/// The loaded framework.
#[derive(Debug)]
pub struct Framework {
    /// `@{}`, which every call with options gets.
    options: Object,
    /// Rows that are not as known, and not needed.
    missing: Vec<&'static Row>,
}

/// Loads the library; it stays for the life of the process.
pub fn load_library(path: &Path) -> Result<(), OpenError> {
    let failed = |reason: String| OpenError::Framework { path: path.display().to_string(), reason };
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|e| failed(e.to_string()))?;
    // SAFETY: the path is a C string; what the library does when it is loaded is Apple's.
    if !unsafe { sys::dlopen(c_path.as_ptr(), sys::RTLD_NOW) }.is_null() {
        return Ok(());
    }
    // SAFETY: the result is null or a C string, valid until the next call on this thread.
    let reason = unsafe { sys::dlerror() };
    if reason.is_null() {
        return Err(failed("the loader gives no reason".into()));
    }
    // SAFETY: as above.
    Err(failed(unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned()))
}

/// The rows that are not as known, in the order of the table.
pub fn mismatches() -> Vec<(&'static Row, Mismatch)> {
    table::ROWS.iter().filter_map(|row| Some((*row, table::check(row).err()?))).collect()
}

impl Framework {
    /// Loads the framework and checks its calls.
    ///
    /// # Errors
    /// [`OpenError`] when the library, a class or a method is not as known.
    pub fn open(path: &Path, wanted: Wanted) -> Result<Self, OpenError> {
        load_library(path)?;
        let needed = |row: &Row| match row.need {
            Need::Always => true,
            Need::Direct => wanted.direct,
            Need::Statistics => wanted.statistics,
            Need::Extra | Need::Lab => false,
        };
        let wrong = mismatches();
        let mut fatal = wrong.iter().filter(|(row, _)| needed(row));
        if let Some((_, first)) = fatal.next() {
            return Err(OpenError::Table {
                count: 1 + fatal.count(),
                all: table::ROWS.iter().filter(|row| needed(row)).count(),
                first: first.clone(),
            });
        }
        let options = Object::new(autoreleasepool(|_| object(NSDictionary::<NSString, NSString>::new())));
        Ok(Self { options, missing: wrong.into_iter().map(|(row, _)| row).collect() })
    }

    fn has<A, R>(&self, method: &Method<A, R>) -> bool {
        !self.missing.contains(&&method.row)
    }

    /// Whether the machine has an engine, where the framework tells.
    pub fn has_engine(&self) -> Option<bool> {
        if !self.has(&table::HAS_ENGINE) {
            return None;
        }
        // SAFETY: the row was checked; it takes no argument.
        unsafe { to_class(&table::HAS_ENGINE, ()) }.ok().map(Bool::as_bool)
    }

    /// Where temporary files of this process belong.
    pub fn temporary_folder(&self) -> PathBuf {
        autoreleasepool(|_| NSTemporaryDirectory().to_string().into())
    }

    /// The connection of this process to the daemon.
    pub fn client(&self) -> Result<Object, SystemError> {
        // SAFETY: the row takes no argument and returns a borrowed object.
        autoreleasepool(|_| unsafe { made(&table::CLIENT, to_class(&table::CLIENT, ())?) })
    }

    /// A model of a program's text and its weight files. `offset` is what their dictionary says of each; 0
    /// in every published engine but one, which says 64.
    pub fn model(&self, text: &str, weights: Option<&Weights>, offset: u64) -> Result<Object, SystemError> {
        autoreleasepool(|_| {
            let text = NSData::with_bytes(text.as_bytes());
            let files = weight_files(weights, offset);
            // SAFETY: the row takes NSData, NSDictionary of NSDictionary, and NSData or nil; the result
            // is autoreleased.
            let descriptor = unsafe {
                let arguments = (id(&text), id(&files), ptr::null_mut());
                made(&table::DESCRIBE, to_class(&table::DESCRIBE, arguments)?)?
            };
            // SAFETY: the row takes the descriptor; the result is autoreleased.
            unsafe { made(&table::MODEL, to_class(&table::MODEL, (descriptor.id(),))?) }
        })
    }

    /// Name of the model's folder.
    pub fn identifier(&self, model: &Object) -> Result<String, SystemError> {
        autoreleasepool(|_| {
            // SAFETY: the row takes no argument; the result is borrowed.
            let name = unsafe { made(&table::IDENTIFIER, to(model, &table::IDENTIFIER, ())?) }?;
            let name = name.0.downcast_ref::<NSString>().map(ToString::to_string);
            name.ok_or_else(|| SystemError {
                text: "the identifier is no string".into(),
                ..SystemError::silent(call(&table::IDENTIFIER))
            })
        })
    }

    /// Compiles the model's files.
    pub fn compile(&self, model: &Object, qos: Qos) -> Result<(), SystemError> {
        done(&table::COMPILE, |error| {
            // SAFETY: the row takes u32, NSDictionary and a place for an error.
            unsafe { to(model, &table::COMPILE, (qos.raw(), self.options.id(), error)) }
        })
    }

    /// Loads the compiled model.
    pub fn load(&self, model: &Object, qos: Qos) -> Result<(), SystemError> {
        done(&table::LOAD, |error| {
            // SAFETY: as for the compile.
            unsafe { to(model, &table::LOAD, (qos.raw(), self.options.id(), error)) }
        })
    }

    /// Unloads the model.
    pub fn unload(&self, model: &Object, qos: Qos) -> Result<(), SystemError> {
        done(&table::UNLOAD, |error| {
            // SAFETY: the row takes u32 and a place for an error.
            unsafe { to(model, &table::UNLOAD, (qos.raw(), error)) }
        })
    }

    /// Evaluates through the daemon.
    pub fn evaluate(&self, model: &Object, request: &Object, qos: Qos) -> Result<(), SystemError> {
        done(&table::EVALUATE, |error| {
            let arguments = (qos.raw(), self.options.id(), request.id(), error);
            // SAFETY: the row takes u32, NSDictionary, a request and a place for an error.
            unsafe { to(model, &table::EVALUATE, arguments) }
        })
    }

    /// Evaluates without the daemon; `inner` is [`Framework::inner`] of the loaded model.
    pub fn evaluate_direct(
        &self,
        client: &Object,
        inner: &Object,
        request: &Object,
        qos: Qos,
    ) -> Result<(), SystemError> {
        done(&table::EVALUATE_DIRECT, |error| {
            let arguments = (inner.id(), self.options.id(), request.id(), qos.raw(), error);
            // SAFETY: the row takes a model, NSDictionary, a request, u32 and a place for an error.
            unsafe { to(client, &table::EVALUATE_DIRECT, arguments) }
        })
    }

    /// The model as the client knows it.
    pub fn inner(&self, model: &Object) -> Result<Object, SystemError> {
        // SAFETY: the row takes no argument; the result is borrowed.
        autoreleasepool(|_| unsafe { made(&table::INNER, to(model, &table::INNER, ())?) })
    }

    /// What the compiler made of inputs and outputs, where the framework tells.
    pub fn attributes(&self, model: &Object) -> Option<Attributes> {
        if !self.has(&table::ATTRIBUTES) {
            return None;
        }
        autoreleasepool(|_| {
            // SAFETY: the row takes no argument; the result is borrowed.
            let attributes =
                unsafe { made(&table::ATTRIBUTES, to(model, &table::ATTRIBUTES, ()).ok()?) }.ok()?;
            Attributes::read(&attributes.0)
        })
    }

    /// Wraps a surface for requests.
    ///
    /// # Safety
    /// `surface` is a live IOSurface.
    pub unsafe fn wrap(&self, surface: NonNull<IOSurface>) -> Result<Object, SystemError> {
        // SAFETY: the row takes an IOSurface, which the result retains; the result is autoreleased.
        autoreleasepool(|_| unsafe { made(&table::WRAP, to_class(&table::WRAP, (surface.as_ptr(),))?) })
    }

    /// A request of wrapped surfaces, each with the index of its symbol.
    pub fn request(
        &self,
        inputs: &[(Object, usize)],
        outputs: &[(Object, usize)],
        statistics: Option<&Object>,
    ) -> Result<Object, SystemError> {
        autoreleasepool(|_| {
            let surfaces = |side: &[(Object, usize)]| {
                NSArray::from_retained_slice(
                    &side.iter().map(|(o, _)| Retained::clone(&o.0)).collect::<Vec<_>>(),
                )
            };
            let indices = |side: &[(Object, usize)]| {
                let numbers = side.iter().map(|(_, i)| NSNumber::new_usize(*i)).collect::<Vec<_>>();
                NSArray::from_retained_slice(&numbers)
            };
            let (ins, in_indices) = (surfaces(inputs), indices(inputs));
            let (outs, out_indices) = (surfaces(outputs), indices(outputs));
            let procedure = NSNumber::new_usize(0);
            let statistics = statistics.map_or(ptr::null_mut(), Object::id);
            let arguments = (
                id(&ins),
                id(&in_indices),
                id(&outs),
                id(&out_indices),
                ptr::null_mut(),
                statistics,
                id(&procedure),
            );
            // SAFETY: the row takes arrays of wrapped surfaces and of numbers, a weights buffer or nil,
            // statistics or nil, and a number; the result is autoreleased.
            unsafe { made(&table::REQUEST, to_class(&table::REQUEST, arguments)?) }
        })
    }

    /// Asks for a new instance of a loaded model whose constant `symbol` of the function `main` comes from
    /// a file. Nobody made it work; the lab asks.
    pub fn new_instance(
        &self,
        client: &Object,
        inner: &Object,
        symbol: &str,
        file: &Path,
        qos: Qos,
    ) -> Result<(), SystemError> {
        let needed =
            [&table::WEIGHT.row, &table::PROCEDURE.row, &table::INSTANCE.row, &table::NEW_INSTANCE.row];
        if let Some(row) = needed.into_iter().find(|row| self.missing.contains(row)) {
            let text = format!("{row} is not as known");
            return Err(SystemError { text, ..SystemError::silent(call(&table::NEW_INSTANCE)) });
        }
        let parameters = autoreleasepool(|_| {
            let (symbol, main) = (NSString::from_str(symbol), NSString::from_str("main"));
            let url = NSURL::fileURLWithPath(&NSString::from_str(&file.to_string_lossy()));
            // SAFETY: the row takes NSString and NSURL; the result is autoreleased.
            let weight = unsafe { made(&table::WEIGHT, to_class(&table::WEIGHT, (id(&symbol), id(&url)))?)? };
            let weights = NSArray::from_retained_slice(&[Retained::clone(&weight.0)]);
            let arguments = (id(&main), id(&weights));
            // SAFETY: the row takes NSString and an array of weights; the result is autoreleased.
            let procedure = unsafe { made(&table::PROCEDURE, to_class(&table::PROCEDURE, arguments)?)? };
            let procedures = NSArray::from_retained_slice(&[Retained::clone(&procedure.0)]);
            let arguments = (id(&main), id(&procedures));
            // SAFETY: the row takes NSString and an array of procedures; the result is autoreleased.
            unsafe { made(&table::INSTANCE, to_class(&table::INSTANCE, arguments)?) }
        })?;
        done(&table::NEW_INSTANCE, |error| {
            let arguments = (inner.id(), self.options.id(), parameters.id(), qos.raw(), error);
            // SAFETY: the row takes a model, NSDictionary, parameters, u32 and a place for an error.
            unsafe { to(client, &table::NEW_INSTANCE, arguments) }
        })
    }

    /// A place for statistics, once the model collects them.
    pub fn statistics(&self, model: &Object) -> Result<Object, SystemError> {
        /// All of them; which bit is the time is not known.
        const EVERYTHING: u32 = u32::MAX;
        autoreleasepool(|_| {
            // SAFETY: the row takes u32 and returns nothing.
            unsafe { to(model, &table::STATISTICS_MASK, (EVERYTHING,)) }?;
            // SAFETY: the row takes u64; the result is autoreleased.
            unsafe { made(&table::STATISTICS, to_class(&table::STATISTICS, (0,))?) }
        })
    }

    /// Nanoseconds of the last evaluation with these statistics, by the hardware; zero when it is silent.
    pub fn hardware_ns(&self, statistics: &Object) -> u64 {
        // SAFETY: the row takes no argument and returns u64.
        unsafe { to(statistics, &table::HARDWARE_TIME, ()) }.unwrap_or(0)
    }
}

/// `{path: {"offset": …, "data": bytes}}`. Without files it is empty, not nil, which crashed (Orion 11).
fn weight_files(
    weights: Option<&Weights>,
    offset: u64,
) -> Retained<NSDictionary<NSString, NSDictionary<NSString>>> {
    let names = [NSString::from_str("offset"), NSString::from_str("data")];
    let mut paths = Vec::new();
    let mut entries = Vec::new();
    for (path, bytes) in weights.into_iter().flat_map(Weights::files) {
        let offset = object(NSNumber::new_u64(offset));
        let data = object(NSData::with_bytes(bytes));
        paths.push(NSString::from_str(path));
        entries.push(NSDictionary::from_retained_objects(&[&*names[0], &*names[1]], &[offset, data]));
    }
    let paths: Vec<&NSString> = paths.iter().map(|path| &**path).collect();
    NSDictionary::from_retained_objects(&paths, &entries)
}

fn object<T: Message>(object: Retained<T>) -> Retained<AnyObject> {
    // SAFETY: every object is an `AnyObject`.
    unsafe { Retained::cast_unchecked(object) }
}

fn id<T: Message>(object: &Retained<T>) -> Id {
    Retained::as_ptr(object).cast_mut().cast()
}

/// The selector, as errors name it.
fn call<A, R>(method: &Method<A, R>) -> &'static str {
    method.row.selector.to_str().unwrap_or_default()
}

/// Sends a class method.
///
/// # Safety
/// The row was found in the framework, and the arguments are what it takes.
unsafe fn to_class<A, R>(method: &Method<A, R>, arguments: A) -> Result<R, SystemError>
where
    A: EncodeArguments,
    R: EncodeReturn,
{
    debug_assert_eq!(method.row.kind, Kind::Class);
    let class = AnyClass::get(method.row.class).ok_or_else(|| SystemError::silent(call(method)))?;
    // SAFETY: the caller's promise.
    caught(call(method), || unsafe { class.send_message(method.selector(), arguments) })
}

/// Sends an instance method.
///
/// # Safety
/// The row was found in the framework, the receiver is of its class, and the arguments are what it takes.
pub(super) unsafe fn to<A, R>(
    receiver: &Object,
    method: &Method<A, R>,
    arguments: A,
) -> Result<R, SystemError>
where
    A: EncodeArguments,
    R: EncodeReturn,
{
    debug_assert_eq!(method.row.kind, Kind::Instance);
    // SAFETY: the caller's promise.
    caught(call(method), || unsafe { receiver.0.send_message(method.selector(), arguments) })
}

/// Runs a call; an exception becomes an error.
fn caught<R>(call: &'static str, f: impl FnOnce() -> R) -> Result<R, SystemError> {
    #[cfg(target_os = "macos")]
    let result = objc2::exception::catch(std::panic::AssertUnwindSafe(f)).map_err(|e| e.map(object));
    #[cfg(not(target_os = "macos"))]
    let result = fake_ane::catch(f);
    result.map_err(|exception| thrown(call, exception))
}

/// What an exception says. Any object may be thrown, nil too.
fn thrown(call: &'static str, exception: Option<Retained<AnyObject>>) -> SystemError {
    let text = exception.map_or("an exception without an object".into(), |exception| {
        let Some(exception) = exception.downcast_ref::<NSException>() else {
            return format!(
                "an object of the class {} was thrown",
                exception.class().name().to_string_lossy()
            );
        };
        let reason = exception.reason().map_or("it gives no reason".into(), |reason| reason.to_string());
        format!("{}: {reason}", exception.name())
    });
    SystemError { call, domain: "NSException".into(), code: 0, text }
}

/// Keeps the object that a call returned, autoreleased or borrowed.
///
/// # Safety
/// `found` is nil or a live object.
pub(super) unsafe fn made<A>(method: &Method<A, Id>, found: Id) -> Result<Object, SystemError> {
    // SAFETY: the caller's promise.
    let found = unsafe { Retained::retain_autoreleased(found) };
    found.map(Object::new).ok_or_else(|| SystemError {
        text: "nothing was returned".into(),
        ..SystemError::silent(call(method))
    })
}

/// Turns a BOOL and an error into a result. By Cocoa's convention the error counts only after NO.
fn done<A>(
    method: &Method<A, Bool>,
    send: impl FnOnce(ErrorOut) -> Result<Bool, SystemError>,
) -> Result<(), SystemError> {
    autoreleasepool(|_| {
        let mut error: *mut NSError = ptr::null_mut();
        if send(&mut error)?.as_bool() {
            return Ok(());
        }
        // SAFETY: null or a live error, autoreleased into the pool of this call.
        let Some(error) = (unsafe { error.as_ref() }) else {
            return Err(SystemError::silent(call(method)));
        };
        Err(SystemError {
            call: call(method),
            domain: error.domain().to_string(),
            code: error.code() as i64,
            text: error.localizedDescription().to_string(),
        })
    })
}
