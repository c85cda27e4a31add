/* Calls a function; what it throws is kept for the caller instead of going on. Rust cannot catch what
   Objective-C throws, so this is the one file in that language. Compiled by build.rs. */

id objc_retain(id object);

unsigned char fake_ane_catch(void (*function)(void *), void *context, id *thrown)
{
    @try {
        function(context);
    } @catch (id object) {
        *thrown = objc_retain(object);
        return 1;
    }
    return 0;
}
