package ext4

import (
	"encoding/binary"
	"fmt"
	"slices"
)

const (
	xattrMagic = 0xea020000
	// inlineInInode is how many bytes of an inline file its inode holds; the rest is the value of an attribute.
	inlineInInode = 60
	maxXattrSize  = 64 << 10
)

// xattrPrefixes are the prefixes of names that are stored as a number.
var xattrPrefixes = map[byte]string{
	1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.", 7: "system.", 8: "system.richacl",
}

const inlineName = "system.data" // the attribute that holds the end of an inline file

// Xattrs returns the extended attributes of a file as getxattr(2) would, ACLs and capabilities included.
func (fs *FS) Xattrs(in *Inode) (map[string][]byte, error) {
	all, err := fs.xattrs(in)
	if err != nil {
		return nil, fmt.Errorf("attributes of inode %d: %w", in.Number, err)
	}
	delete(all, inlineName)
	for _, name := range []string{xattrPrefixes[2], xattrPrefixes[3]} {
		if stored, is := all[name]; is {
			if all[name], err = posixACL(stored); err != nil {
				return nil, fmt.Errorf("attributes of inode %d: %w", in.Number, err)
			}
		}
	}
	return all, nil
}

func (fs *FS) xattrs(in *Inode) (map[string][]byte, error) {
	all := map[string][]byte{}
	if in.extra > 0 && in.extra+4 <= int64(len(in.raw)) && le.Uint32(in.raw[in.extra:]) == xattrMagic {
		region := in.raw[in.extra+4:]
		if err := fs.parseXattrs(region, region, all); err != nil {
			return nil, err
		}
	}
	if in.acl == 0 {
		return all, nil
	}
	b, err := fs.readBlock(in.acl)
	if err != nil {
		return nil, err
	}
	if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
		return nil, damaged("block %d holds none", in.acl)
	}
	if fs.checksums() {
		sum := slices.Clone(b)
		clear(sum[16:20])
		if crc32c(crc32c(fs.csumSeed, le.AppendUint64(nil, uint64(in.acl))), sum) != le.Uint32(b[16:]) { //nolint:gosec // never negative
			return nil, damaged("block %d does not have its checksum", in.acl)
		}
	}
	return all, fs.parseXattrs(b[32:], b, all)
}

// parseXattrs adds the attributes of a region; the places of their values count from the start of another.
func (fs *FS) parseXattrs(entries, values []byte, all map[string][]byte) error {
	for len(entries) >= 4 && le.Uint32(entries) != 0 {
		if len(entries) < 16 || len(entries) < 16+int(entries[0]) {
			return damaged("they have no end")
		}
		prefix, known := xattrPrefixes[entries[1]]
		if !known {
			return unsupported("an attribute of the kind %d", entries[1])
		}
		name := prefix + string(entries[16:16+int(entries[0])])
		at, holder, size := int64(le.Uint16(entries[2:])), le.Uint32(entries[4:]), int64(le.Uint32(entries[8:]))
		if _, twice := all[name]; twice {
			return damaged("%s is there twice", name)
		}
		switch {
		case holder != 0:
			value, err := fs.xattrInode(holder, size)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			all[name] = value
		case at+size > int64(len(values)):
			return damaged("the value of %s is not where it should be", name)
		default:
			all[name] = slices.Clone(values[at : at+size])
		}
		entries = entries[min(len(entries), (16+int(entries[0])+3)&^3):]
	}
	return nil
}

// xattrInode reads a value that has an inode of its own.
func (fs *FS) xattrInode(number uint32, size int64) ([]byte, error) {
	in, err := fs.inode(number)
	if err != nil {
		return nil, err
	}
	if in.flags&flagEAInode == 0 || in.Size != size {
		return nil, damaged("inode %d does not hold its value", number)
	}
	return fs.readAll(in, maxXattrSize)
}

// inlineData returns what an inline file or directory can hold: its place in the inode, and that among the attributes.
func (fs *FS) inlineData(in *Inode) ([]byte, error) {
	all, err := fs.xattrs(in)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", in.Number, err)
	}
	rest, is := all[inlineName]
	if !is {
		return nil, damaged("inode %d is inline and lacks its attribute", in.Number)
	}
	return append(slices.Clone(in.raw[blockMapOffset:blockMapOffset+inlineInInode]), rest...), nil
}

// Kinds of entries of an ACL that name nobody, and are stored in short.
const (
	aclUserObj  = 0x01
	aclGroupObj = 0x04
	aclMask     = 0x10
	aclOther    = 0x20
	aclUser     = 0x02
	aclGroup    = 0x08
)

// posixACL turns an ACL as the file system stores it into what getxattr(2) returns.
func posixACL(stored []byte) ([]byte, error) {
	if len(stored) < 4 || le.Uint32(stored) != 1 {
		return nil, damaged("an ACL is of an unknown version")
	}
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for b := stored[4:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, damaged("an ACL is cut off")
		}
		acl = append(acl, b[:4]...)
		switch le.Uint16(b) {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			acl = append(acl, 0xff, 0xff, 0xff, 0xff)
			b = b[4:]
		case aclUser, aclGroup:
			if len(b) < 8 {
				return nil, damaged("an ACL is cut off")
			}
			acl = append(acl, b[4:8]...)
			b = b[8:]
		default:
			return nil, damaged("an ACL has an entry of the kind %d", le.Uint16(b))
		}
	}
	return acl, nil
}
