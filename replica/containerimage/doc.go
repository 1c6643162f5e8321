// Package containerimage makes a container image of the disks that were copied from a server: one layer that holds the files of its
// root file system, in the OCI image layout (https://github.com/opencontainers/image-spec).
//
// [Build] looks for the root file system on the system disk, puts the file systems that its /etc/fstab mounts in their places, and
// writes every file with its mode, owner, times, links and extended attributes. What cannot be in an image of a container is either
// refused, with one of the errors of this package, or named in [Built.LeftOut]. Nothing is left out without a word.
package containerimage
