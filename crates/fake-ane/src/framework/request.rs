//! `_ANERequest`: wrapped surfaces with the indices of their symbols.

use objc2::rc::{Allocated, Retained};
use objc2::runtime::{AnyObject, NSObject};
use objc2::{AnyThread, Message, define_class, msg_send};
use objc2_foundation::{NSArray, NSNumber, NSObjectProtocol};

use super::statistics::Statistics;
use super::surface::SurfaceObject;
use crate::live::Counted;

/// A surface of a request.
pub(super) struct Bound {
    pub surface: Retained<SurfaceObject>,
    pub index: usize,
}

pub(super) struct Ivars {
    pub inputs: Vec<Bound>,
    pub outputs: Vec<Bound>,
    pub statistics: Option<Retained<Statistics>>,
    _counted: Counted,
}

define_class!(
    // SAFETY: NSObject asks nothing of subclasses.
    #[unsafe(super(NSObject))]
    #[name = "_ANERequest"]
    #[ivars = Ivars]
    pub(super) struct Request;

    // SAFETY: NSObject's methods are inherited.
    unsafe impl NSObjectProtocol for Request {}

    impl Request {
        // SAFETY: the types are those of the table of the bridge.
        #[unsafe(method_id(requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:))]
        fn with(
            inputs: &NSArray<AnyObject>,
            input_indices: &NSArray<AnyObject>,
            outputs: &NSArray<AnyObject>,
            output_indices: &NSArray<AnyObject>,
            _weights: Option<&AnyObject>,
            statistics: Option<&AnyObject>,
            procedure: Option<&AnyObject>,
        ) -> Option<Retained<Self>> {
            procedure.and_then(|number| number.downcast_ref::<NSNumber>()).and_then(|_| {
                Self::make((inputs, input_indices), (outputs, output_indices), statistics)
            })
        }
    }
);

type Side<'a> = (&'a NSArray<AnyObject>, &'a NSArray<AnyObject>);

impl Request {
    fn make(inputs: Side<'_>, outputs: Side<'_>, statistics: Option<&AnyObject>) -> Option<Retained<Self>> {
        let statistics = match statistics {
            Some(object) => Some(object.downcast_ref::<Statistics>()?.retain()),
            None => None,
        };
        let (inputs, outputs) = (bound(inputs)?, bound(outputs)?);
        let this: Allocated<Self> = Self::alloc();
        let this = this.set_ivars(Ivars { inputs, outputs, statistics, _counted: Counted::new() });
        // SAFETY: NSObject's designated initialiser.
        Some(unsafe { msg_send![super(this), init] })
    }
}

fn bound((surfaces, indices): Side<'_>) -> Option<Vec<Bound>> {
    if surfaces.count() != indices.count() {
        return None;
    }
    let one = |i: usize| {
        let surface = surfaces.objectAtIndex(i).downcast::<SurfaceObject>().ok()?;
        let index = indices.objectAtIndex(i).downcast::<NSNumber>().ok()?.as_usize();
        Some(Bound { surface, index })
    };
    (0..surfaces.count()).map(one).collect()
}
