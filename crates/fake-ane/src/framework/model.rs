//! `_ANEInMemoryModel`, and `_ANEModel`, which clients know it by.

use std::sync::Arc;

use objc2::rc::{Allocated, Retained};
use objc2::runtime::{AnyObject, Bool, NSObject};
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::{NSArray, NSDictionary, NSError, NSNumber, NSObjectProtocol, NSString};

use super::descriptor::Descriptor;
use super::engine::{Engine, Symbol};
use super::request::Request;
use super::{DOMAIN, Failure, answer};
use crate::live::Counted;

pub(super) struct Ivars {
    pub engine: Arc<Engine>,
    _counted: Counted,
}

define_class!(
    // SAFETY: NSObject asks nothing of subclasses.
    #[unsafe(super(NSObject))]
    #[name = "_ANEModel"]
    #[ivars = Ivars]
    pub(super) struct Model;

    // SAFETY: NSObject's methods are inherited.
    unsafe impl NSObjectProtocol for Model {}
);

impl Model {
    fn new(engine: Arc<Engine>) -> Retained<Self> {
        let this: Allocated<Self> = Self::alloc();
        let this = this.set_ivars(Ivars { engine, _counted: Counted::new() });
        // SAFETY: NSObject's designated initialiser.
        unsafe { msg_send![super(this), init] }
    }
}

pub(super) struct InMemoryIvars {
    engine: Arc<Engine>,
    model: Retained<Model>,
    _counted: Counted,
}

define_class!(
    // SAFETY: NSObject asks nothing of subclasses.
    #[unsafe(super(NSObject))]
    #[name = "_ANEInMemoryModel"]
    #[ivars = InMemoryIvars]
    pub(super) struct InMemoryModel;

    // SAFETY: NSObject's methods are inherited.
    unsafe impl NSObjectProtocol for InMemoryModel {}

    // SAFETY of the methods: the types are those of the table of the bridge.
    impl InMemoryModel {
        #[unsafe(method_id(inMemoryModelWithDescriptor:))]
        fn with_descriptor(descriptor: Option<&Descriptor>) -> Option<Retained<Self>> {
            descriptor.map(Self::new)
        }

        #[unsafe(method_id(hexStringIdentifier))]
        fn identifier(&self) -> Retained<NSString> {
            NSString::from_str(&self.ivars().engine.described.identifier())
        }

        #[unsafe(method(compileWithQoS:options:error:))]
        fn compile(&self, _qos: u32, options: Option<&NSDictionary>, error: *mut *mut NSError) -> Bool {
            let result = with(options).and_then(|()| self.ivars().engine.compile());
            // SAFETY: the caller gives null or a place.
            unsafe { answer(result, error) }
        }

        #[unsafe(method(loadWithQoS:options:error:))]
        fn load(&self, _qos: u32, options: Option<&NSDictionary>, error: *mut *mut NSError) -> Bool {
            let result = with(options).and_then(|()| self.ivars().engine.load());
            // SAFETY: the caller gives null or a place.
            unsafe { answer(result, error) }
        }

        #[unsafe(method(evaluateWithQoS:options:request:error:))]
        fn evaluate(
            &self,
            qos: u32,
            options: Option<&NSDictionary>,
            request: &Request,
            error: *mut *mut NSError,
        ) -> Bool {
            let result = with(options).and_then(|()| self.ivars().engine.evaluate(request, qos, false));
            // SAFETY: the caller gives null or a place.
            unsafe { answer(result, error) }
        }

        #[unsafe(method(unloadWithQoS:error:))]
        fn unload(&self, _qos: u32, error: *mut *mut NSError) -> Bool {
            // SAFETY: the caller gives null or a place.
            unsafe { answer(self.ivars().engine.unload(), error) }
        }

        #[unsafe(method(setPerfStatsMask:))]
        fn set_statistics_mask(&self, mask: u32) {
            self.ivars().engine.set_statistics_mask(mask);
        }

        #[unsafe(method_id(model))]
        fn model(&self) -> Retained<Model> {
            self.ivars().model.clone()
        }

        #[unsafe(method_id(modelAttributes))]
        fn attributes(&self) -> Option<Retained<NSDictionary<NSString, AnyObject>>> {
            self.ivars().engine.symbols().map(attributes)
        }
    }
);

impl InMemoryModel {
    fn new(descriptor: &Descriptor) -> Retained<Self> {
        let engine = Arc::new(Engine::new(descriptor.ivars().described.clone()));
        let model = Model::new(engine.clone());
        let this: Allocated<Self> = Self::alloc();
        let this = this.set_ivars(InMemoryIvars { engine, model, _counted: Counted::new() });
        // SAFETY: NSObject's designated initialiser.
        unsafe { msg_send![super(this), init] }
    }
}

fn attributes([inputs, outputs]: [Vec<Symbol>; 2]) -> Retained<NSDictionary<NSString, AnyObject>> {
    let description = dictionary([
        ("kANEFModelInputSymbolsArrayKey", names(&inputs, "")),
        ("kANEFModelOutputSymbolsArrayKey", names(&outputs, "@output")),
    ]);
    let rows = dictionary([("LiveInputList", rows(&inputs)), ("LiveOutputList", rows(&outputs))]);
    let status = NSArray::from_retained_slice(&[rows]);
    dictionary([("ANEFModelDescription", description.into()), ("NetworkStatusList", status.into())])
}

/// Options are a dictionary, empty or not: nil is a mistake.
fn with(options: Option<&NSDictionary>) -> Result<(), Failure> {
    options.map(drop).ok_or_else(|| Failure::new(DOMAIN, 1, "options are nil"))
}

fn dictionary<const N: usize>(
    entries: [(&str, Retained<AnyObject>); N],
) -> Retained<NSDictionary<NSString, AnyObject>> {
    let (keys, values): (Vec<_>, Vec<_>) =
        entries.into_iter().map(|(k, v)| (NSString::from_str(k), v)).unzip();
    let keys: Vec<&NSString> = keys.iter().map(|key| &**key).collect();
    NSDictionary::from_retained_objects(&keys, &values)
}

fn names(symbols: &[Symbol], suffix: &str) -> Retained<AnyObject> {
    let names = symbols.iter().map(|s| NSString::from_str(&format!("{}{suffix}", s.name)));
    NSArray::from_retained_slice(&names.collect::<Vec<_>>()).into()
}

fn rows(symbols: &[Symbol]) -> Retained<AnyObject> {
    let row = |s: &Symbol| {
        dictionary([
            ("Width", NSNumber::new_usize(s.width).into()),
            ("RowStride", NSNumber::new_usize(s.row_bytes).into()),
        ])
    };
    NSArray::from_retained_slice(&symbols.iter().map(row).collect::<Vec<_>>()).into()
}
