// Package ext4 reads the file systems ext2, ext3 and ext4 from the bytes of a disk that was copied from a running server. It
// writes nothing, and needs neither root nor the kernel's help nor a tool.
//
// Such a file system was in use when it was copied, so its journal has to be replayed. [Open] does that in memory: it works out
// which blocks the journal supersedes, and reads those from the journal. The copy stays as it is.
//
// What the file system keeps checksums of is held against them, and what it says of itself is held to be possible: a copy that does
// not hang together is an error matching [ErrDamaged], never other contents than the server had. A feature that the package does
// not know is an error matching [ErrUnsupported].
//
// It reads extents and block maps, holes and preallocated blocks, hashed and inline directories, extended attributes in the inode,
// in a block and in inodes of their own, 32 and 64 bits. The layout on the disk is documented at
// https://docs.kernel.org/filesystems/ext4/; the journal's is that of jbd2, in the same place.
package ext4
