//! `_ANEClient`: the connection to the daemon, and the way past it.

use std::sync::OnceLock;

use objc2::rc::{Allocated, Retained};
use objc2::runtime::{Bool, NSObject};
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::{NSDictionary, NSError, NSObjectProtocol};

use super::instance::Parameters;
use super::model::Model;
use super::request::Request;
use super::{DOMAIN, Failure, answer};

define_class!(
    // SAFETY: NSObject asks nothing of subclasses.
    #[unsafe(super(NSObject))]
    #[name = "_ANEClient"]
    pub(super) struct Client;

    // SAFETY: NSObject's methods are inherited.
    unsafe impl NSObjectProtocol for Client {}

    // SAFETY of the methods: the types are those of the table of the bridge.
    impl Client {
        #[unsafe(method_id(sharedConnection))]
        fn shared() -> Retained<Self> {
            SHARED.get_or_init(Self::make).0.clone()
        }

        #[unsafe(method(doEvaluateDirectWithModel:options:request:qos:error:))]
        fn evaluate(
            &self,
            model: &Model,
            options: Option<&NSDictionary>,
            request: &Request,
            qos: u32,
            error: *mut *mut NSError,
        ) -> Bool {
            let options = options.ok_or_else(|| Failure::new(DOMAIN, 1, "options are nil"));
            let result = options.and_then(|_| model.ivars().engine.evaluate(request, qos, true));
            // SAFETY: the caller gives null or a place.
            unsafe { answer(result, error) }
        }

        #[unsafe(method(loadModelNewInstance:options:modelInstParams:qos:error:))]
        fn new_instance(
            &self,
            _model: &Model,
            _options: Option<&NSDictionary>,
            _parameters: &Parameters,
            _qos: u32,
            error: *mut *mut NSError,
        ) -> Bool {
            let result = Err(Failure::new(DOMAIN, 6, "no instance is made with other weights"));
            // SAFETY: the caller gives null or a place.
            unsafe { answer(result, error) }
        }
    }
);

struct Connection(Retained<Client>);

// SAFETY: a client has no state, and retain counts are atomic.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

static SHARED: OnceLock<Connection> = OnceLock::new();

impl Client {
    fn make() -> Connection {
        let this: Allocated<Self> = Self::alloc();
        let this = this.set_ivars(());
        // SAFETY: NSObject's designated initialiser.
        Connection(unsafe { msg_send![super(this), init] })
    }
}
