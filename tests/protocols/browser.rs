//! A headless Chromium: a page over HTTP/2 that uses `fetch`, an event stream and a WebSocket.
