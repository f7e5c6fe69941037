// Package waitset waits for any, or for all, of many things at once: messages of
// subscriptions, responses to clients, requests to servers, and guard conditions, which
// the program triggers itself.
//
// Put the entities into a [WaitSet], wait on it, look at what is [Ready], take it, and
// wait again:
//
//	ws, err := waitset.New(sub, client, server, guard)
//	...
//	defer ws.Close()
//	for {
//		ready, err := ws.Wait(ctx, -1)
//		if err != nil {
//			return err
//		}
//		if ready.Has(sub) {
//			msg, err := sub.Next(ctx) // returns at once
//			...
//		}
//	}
//
// To wait for one message, request or response no set is needed: subscriptions, servers
// and clients have methods for that, and [WaitFor] waits for one entity of any kind.
//
// # Timeouts
//
// A negative timeout is none, zero looks without blocking, and a positive one waits at
// most that long. A wait that times out is not an error: nothing is ready then. ctx
// bounds every wait as well; its end is an error, that of transport.ContextError, also
// when something is ready, so that a loop of waits ends. A wait on a set without
// entities is a sleep until the timeout or the end of ctx.
//
// # What a wait reports
//
// Wait returns when at least one entity is ready and reports all that are; WaitAll
// returns when every entity is, and reports either all or, at the timeout, none. A
// subscription, client or server is ready for as long as it has something to take, and is
// reported by every wait until that has been taken. It is also ready once it is
// closed, so that its reader learns of it: remove it from the set then. An entity may
// be in many sets, and be read by others; that it was reported does not mean that there
// still is something to take.
//
// A guard condition is reset by the wait that reports it, and by nothing else: a trigger
// is not lost when it comes before the wait, while another wait ends, or during one that
// reports nothing.
//
// # Cost
//
// A waiting set uses no processor time. A wait costs time in proportion to the entities
// that are ready or have changed since the last wait, not to all in the set, and it does
// not allocate. WaitAll asks every entity, when all seem to be ready.
package waitset
