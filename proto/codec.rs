//! How generated clients and servers write and read messages: as `tonic_prost` does, but a message is measured before
//! it is written, so that its buffer is made once. Without that the buffer of a long message is doubled, and what is
//! in it copied, several times.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::BufMut as _;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

/// What is taken at once where a message has no room, bytes: several messages of a busy stream share it.
const BLOCK_BYTES: usize = 32 << 10;

/// Writes messages of type `T`, reads such of type `U`.
#[derive(Debug)]
pub struct SizedCodec<T, U>(PhantomData<(T, U)>);

/// Writes messages of type `T`.
#[derive(Debug)]
pub struct SizedEncoder<T>(PhantomData<T>);

// === impl SizedCodec ===

impl<T, U> Default for SizedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SizedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = SizedEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        SizedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::default())
    }
}

// === impl SizedEncoder ===

impl<T: Message> Encoder for SizedEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let bytes = item.encoded_len();
        if buf.chunk_mut().len() < bytes {
            buf.reserve(bytes.max(BLOCK_BYTES));
        }
        // `encode` would measure it once more, to see whether it has room.
        item.encode_raw(buf);
        Ok(())
    }
}
