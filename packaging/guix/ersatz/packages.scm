;;; The package of ersatz, for Guix.
;;;
;;; It takes the programs as they were built: ersatz needs Go 1.26, which Guix
;;; 1.5 does not have.  "make dist" in the checkout that this file is in makes
;;; the tarball.

(define-module (ersatz packages)
  #:use-module (guix build-system copy)
  #:use-module (guix gexp)
  #:use-module (guix packages))

(define-public ersatz
  (package
    (name "ersatz")
    (version "0")
    (source (local-file "../../../dist/ersatz-x86_64-linux.tar.gz"))
    (build-system copy-build-system)
    (arguments
     (list #:install-plan #~'(("bin" "bin")
                              ("libexec" "libexec")
                              ("share" "share"))))
    (supported-systems '("x86_64-linux"))
    (home-page #f)
    (synopsis "Substitutes from anywhere, verified")
    (description "ersatz publishes store items as encrypted blocks named by
their hash (ERIS) beside ordinary substitutes, and installs them under a stock
guix-daemon from whoever has the blocks: several servers at once, nodes of the
local network, the local IPFS daemon, and plain nars as the floor.  Nothing is
installed that the machine's access control list does not accept.")
    (license #f)))                      ;none is stated
